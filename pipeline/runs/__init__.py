"""A training run on storage: its folder, and the weights it starts from."""
