"""``python -m jobs.bench PART``: a part of the system timed against its alternatives."""
