"""Old name of ``pipeline.serving.predictor``, which the code files of models registered before it moved import."""

from pipeline.serving.predictor import load_predictor

__all__ = ["load_predictor"]
