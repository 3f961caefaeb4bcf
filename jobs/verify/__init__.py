"""``python -m jobs.verify``: a stored data set re-read, each fault by its name."""
