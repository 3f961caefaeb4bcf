"""The old name of ``pipeline.serving.predictor``: models that were registered before that was a folder name this
module.
"""

from pipeline.serving.predictor import load_predictor

__all__ = ["load_predictor"]
