"""Reciprocal's library: configuration, storage, data, models, training, evaluation, prediction."""
