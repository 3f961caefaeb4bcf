"""Checkpoints as folders of files in a run's storage: written, listed, verified, pruned. What the files mean is in
``pipeline.training.checkpoint``.
"""
