"""``python -m jobs.evaluate``: a finished run on a split."""
