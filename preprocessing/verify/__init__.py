"""Stored data re-read: each fault by its name."""
