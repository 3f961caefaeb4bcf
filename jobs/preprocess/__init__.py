"""``python -m jobs.preprocess``: raw videos to a stored data set."""
