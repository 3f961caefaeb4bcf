"""``python -m jobs.bench models``: the papers' networks counted, timed and compared with their equations."""
