"""``python -m jobs.bench training``: a run's steps against those of a bare loop, and two ranks against one."""
