"""Synthetic videos in which a class is a pair of texture and motion."""
