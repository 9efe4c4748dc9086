"""Training, evaluation and conversion of captioners; nothing outside this package imports it."""
