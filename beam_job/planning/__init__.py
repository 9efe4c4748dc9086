"""From listed URIs to a stored plan: what is new, in which shards, in which run, and who may write it."""
