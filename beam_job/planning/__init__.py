"""Turns listed URIs into a stored plan: finds what is new, divides it into shards, and manages runs and the lease."""
