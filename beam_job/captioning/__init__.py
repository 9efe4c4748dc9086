"""From pixels to committed shards: the DoFn, its engine, batches, and the captioners that it can open."""
