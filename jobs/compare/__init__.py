"""``python -m jobs.compare``: runs beside the numbers that the papers print, and beside each other."""
