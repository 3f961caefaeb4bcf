"""``python -m jobs.train``: a recipe to a trained run."""
