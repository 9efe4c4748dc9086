"""Training, evaluation and conversion of captioners: the commands of `python -m model`."""
