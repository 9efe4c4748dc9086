"""Reads the results of all runs of an output: status, snapshots, exports and corrections."""
