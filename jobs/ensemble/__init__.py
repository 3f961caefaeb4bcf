"""``python -m jobs.ensemble``: the mean of several runs' class probabilities."""
