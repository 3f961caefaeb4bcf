"""``python -m jobs.submit``: any job of this project, run on a cluster by one command."""
