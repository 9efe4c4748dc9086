"""What a run writes: schemas, atomic shard files, metrics, the summary and the review page."""
