"""The code of a registered model: MLflow stores this file with the model and runs it when the model is loaded.

It is source, not a pickle: a model loads on another Python version, and what it will run can be read.
"""

from pipeline.serving.predictor import load_predictor
from pipeline.tracking.video_model import serve

serve(load_predictor)
