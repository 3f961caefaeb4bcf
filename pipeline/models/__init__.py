"""Models: ``build_model`` makes one, ``ActionModel`` says what it can do."""

from pipeline.models.batchnorm import freeze_batchnorm
from pipeline.models.build import build_model
from pipeline.models.interface import ActionModel, branch_probabilities, count_parameters, fuse

__all__ = ["ActionModel", "branch_probabilities", "build_model", "count_parameters", "freeze_batchnorm", "fuse"]
