"""``python -m jobs.predict``: video files to classes, with a registered model."""
