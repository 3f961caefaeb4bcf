"""``python -m jobs.bench models``: the papers' networks: counts, times, and the difference from their equations."""
