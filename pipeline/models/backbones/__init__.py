"""Public image classification networks as feature extractors, and their public weights."""
