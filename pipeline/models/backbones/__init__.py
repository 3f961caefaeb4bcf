"""Public image networks and their public weights."""
