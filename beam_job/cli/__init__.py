"""The command line: options, progress, logging, signals, and a run from its options to its summary."""
