"""``python -m jobs.bench gpu``: the figures that only a GPU can give, in a few minutes."""
