"""``python -m jobs.bench loader``: the training loader against its decoder alone and against a baseline."""
