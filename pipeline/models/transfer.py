"""Weights of a finished run as the start of another one: all tensors, except the classifier's if the classes differ."""

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
    """Names of the classifier's tensors: exactly those whose shapes depend on the number of classes."""
    with torch.device("meta"):
        one, two = (build_model(config, num_classes=n, crop=crop).state_dict() for n in (1, 2))
    return tuple(name for name in one if one[name].shape != two[name].shape)


def load_run_weights(
    model: ActionModel, state: Mapping[str, Tensor], *, fresh: Collection[str] = (), source: str = "", fix: str = ""
) -> LoadReport:
    """Load the weights and running statistics of another run into a model.

    Args:
        model: changed in place, and left untouched if anything is wrong. On the meta device: checked only.
        state: state dict of the other run's model.
        fresh: names of tensors that keep their values in ``model`` and are ignored in ``state``; see
            ``classifier_names``.
        source: name of the other run, for messages.
        fix: what to do if a tensor does not fit, for messages.

    Raises:
        ConfigError: names the tensor that is missing, unknown, not finite or of another shape, and both shapes.
    """

    def wrong(problem: str) -> ConfigError:
        return ConfigError(FIELD, source, f"{problem}; {fix or 'give a run of the same model'}")

    own = {name: value for name, value in model.state_dict().items() if name not in fresh}
    given = {name: value for name, value in state.items() if name not in fresh}
    for name, value in own.items():
        if name not in given:
            raise wrong(f"{name} has shape {tuple(value.shape)} in this model and is missing in that run")
        if given[name].shape != value.shape:
            raise wrong(f"{name} has shape {tuple(value.shape)} here and {tuple(given[name].shape)} in that run")
        if not given[name].isfinite().all():
            raise wrong(f"{name} contains a value that is not finite")
    for name, value in given.items():
        if name not in own:
            raise wrong(f"{name} has shape {tuple(value.shape)} in that run and is missing in this model")
    fill(model, given)
    return LoadReport(tuple(given), tuple(name for name in state if name in fresh), averaged=False)
