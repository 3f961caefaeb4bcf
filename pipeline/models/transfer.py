"""From a finished run of ours to the start of another: all tensors but, where the classes are other ones, the
classifier's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from pipeline.config.model import ModelConfig
from pipeline.errors import ConfigError
from pipeline.models.backbones.public_weights import LoadReport, fill
from pipeline.models.build import build_model
from pipeline.models.interface import ActionModel

FIELD = "start_from"


def classifier_names(config: ModelConfig, *, crop: int) -> tuple[str, ...]:
    """Names of the classifier's tensors: those, and only those, whose shapes depend on the number of classes."""
    with torch.device("meta"):
        one, two = (build_model(config, num_classes=n, crop=crop).state_dict() for n in (1, 2))
    return tuple(name for name in one if one[name].shape != two[name].shape)


def load_run_weights(
    model: ActionModel, state: Mapping[str, Tensor], *, fresh: Collection[str] = (), source: str = "", fix: str = ""
) -> LoadReport:
    """Put the weights and running statistics of another run into a model.

    Args:
        model: changed in place, and untouched if anything is wrong. On the meta device: only checked.
        state: of the other run's model.
        fresh: tensors that stay as they are in ``model``, and are left out of ``state``: see ``classifier_names``.
        source: the other run, for messages.
        fix: what to do where something does not fit, for messages.

    Raises:
        ConfigError: names the tensor that is missing, unknown, misshapen or not finite, and both shapes.
    """

    def wrong(problem: str) -> ConfigError:
        return ConfigError(FIELD, source, f"{problem}; {fix or 'give a run of the same model'}")

    own = {name: value for name, value in model.state_dict().items() if name not in fresh}
    given = {name: value for name, value in state.items() if name not in fresh}
    for name, value in own.items():
        if name not in given:
            raise wrong(f"{name} has shape {tuple(value.shape)} here and is missing there")
        if given[name].shape != value.shape:
            raise wrong(f"{name} has shape {tuple(value.shape)} here and {tuple(given[name].shape)} there")
        if not given[name].isfinite().all():
            raise wrong(f"{name} holds a value that is not finite")
    for name, value in given.items():
        if name not in own:
            raise wrong(f"{name} has shape {tuple(value.shape)} there and is missing here")
    fill(model, given)
    return LoadReport(tuple(given), tuple(name for name in state if name in fresh), averaged=False)
