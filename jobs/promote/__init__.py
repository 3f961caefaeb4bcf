"""``python -m jobs.promote``: a finished run to a registered model."""
