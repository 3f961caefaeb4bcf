"""A training run: its folder on storage, and the weights it starts from."""
