"""MRST-Net from its 2D twin, a network trained on still images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.backbones.public_weights import FIELD, LoadReport, fill
from pipeline.models.mrst.model import MRSTNet
from pipeline.models.mrst.unit import Tube

log = logging.getLogger(__name__)

Start = Literal["fresh", "near"]
NEAR = 1e-2
"""Scale of the new parts in a ``near`` start. At zero the features would equal the twin's, but ReLU has no gradient at
zero and the new parts would never learn.
"""
_FIRST = "stem.spatial.weight"
_CLASSIFIER = "fc."
_NEW = ("temporal", "temporal_bn", "gates", "lstm", "fc")
"""Parts of MRST-Net that its twin lacks, and the classifier, whose classes differ."""


def load_2d_weights(
    model: MRSTNet,
    state: Mapping[str, Tensor],
    *,
    start: Start = "fresh",
    source: str = "",
    field: str = FIELD,
    fix: str = "give the weights of the 2D twin: model.unit 2D, otherwise the same model",
) -> LoadReport:
    r"""Load the weights of the 2D twin (``MRSTConfig(unit="2D")``, otherwise the same) into MRST-Net.

    The twin is MRST-Net without temporal convolutions, matrices and LSTM, so its tensors keep their names and shapes: a
    3x3 kernel is a 1x3x3 one. The new parts are initialised in one of two ways. The paper starts from ImageNet without
    saying how; both ways are ours.

    ``fresh``: as without pre-training. The spatial features of the stem are the twin's; after it, T and the gates
    change the maps.

    ``near``: the temporal BN and what the matrices add are scaled by 0.01. Gates are then close to 1/2 and T is close
    to 0, so X* = gS S + gT T is close to S / 2; the spatial BN's weight and bias are doubled, and X* is close to S, the
    twin's (unit STD has no gates and needs no doubling). As the scale goes to 0, the features of every frame of any
    clip converge to the twin's; held by ``tests/unit/pipeline/models/mrst/test_inflate.py``.

    Args:
        model: layout resnet, any unit but 2D; changed in place, and left untouched if anything is wrong. On the meta
            device: checked only.
        state: the twin's state dict. Its classifier is ignored.
        start: fresh or near.
        source: name of the file or run, for messages.
        field: the config field that named it.
        fix: what to do if a tensor does not fit.

    Raises:
        ConfigError: names the tensor that is missing, unknown, not finite or of the wrong shape, and the expected
            shape; or ``near`` with unit STF, whose gates depend on S alone and cannot be kept close to 1/2.
    """

    def wrong(problem: str) -> ConfigError:
        return ConfigError(field, source, f"{problem}; {fix}")

    if start == "near" and model.config.unit == "STF":
        raise ConfigError(
            "model.start", start, "gates of unit STF depend on S alone and cannot be kept close to 1/2: use fresh"
        )
    own = model.state_dict()
    shared = {name for name in own if not set(name.split(".")) & set(_NEW)}
    adapted: dict[str, Tensor] = {}
    for name in sorted(shared):
        if name not in state:
            raise wrong(f"{name} is missing, expected shape {tuple(own[name].shape)}")
    averaged = False
    # In the model's order, not in that of a file's table, which differs from one reading to the next.
    for name in (*(name for name in own if name in state), *sorted(state.keys() - own.keys())):
        value = state[name]
        if name.startswith(_CLASSIFIER):
            continue
        if name not in shared:
            raise wrong(f"{name} is unknown")
        given = value
        if name == _FIRST and value.ndim == 4 and value.shape[1] == 3 != own[name].shape[1]:
            given, averaged = value.mean(dim=1, keepdim=True).expand(-1, own[name].shape[1], -1, -1), True
        if given.shape != own[name].shape:
            raise wrong(f"{name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        if not given.isfinite().all():
            raise wrong(f"{name} contains a value that is not finite")
        adapted[name] = given
    fill(model, adapted)
    if start == "near":
        scale_new_parts(model, NEAR)
    report = LoadReport(tuple(adapted), tuple(name for name in state if name not in adapted), averaged)
    log.info(
        "%s: %s; %d tensors of MRST-Net are initialised (%s)",
        source or "weights",
        report,
        len(own) - len(adapted),
        start,
    )
    return report


@torch.no_grad()
def scale_new_parts(model: MRSTNet, scale: float) -> None:
    """Scale temporal BN and matrices, and double S where gates will halve it; see ``load_2d_weights``. Call once."""
    for tube in _tubes(model):
        if tube.temporal_bn is not None:
            tube.temporal_bn.weight.mul_(scale)
            tube.temporal_bn.bias.mul_(scale)
        if tube.gates is not None:
            tube.gates.scale_(scale)
            tube.spatial_bn.weight.mul_(2)
            tube.spatial_bn.bias.mul_(2)


def _tubes(model: nn.Module) -> Iterator[Tube]:
    return (module for module in model.modules() if isinstance(module, Tube))
