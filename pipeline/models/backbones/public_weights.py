"""Public ImageNet weights into a backbone: every name and shape is checked, and what is not loaded is reported."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3

log = logging.getLogger(__name__)

Backbone = BNInception | InceptionV3

FIELD = "model.pretrained"
# Classifiers and the auxiliary head in the public files; the backbones have none.
_HEADS: dict[type, tuple[str, ...]] = {
    BNInception: ("last_linear.", "fc_action.", "fc."),
    InceptionV3: ("fc.", "AuxLogits."),
}
_FIRST = {BNInception: "conv1_7x7_s2.weight", InceptionV3: "Conv2d_1a_3x3.conv.weight"}
_NETWORK = {BNInception: "the Caffe-style BN-Inception", InceptionV3: "torchvision's Inception v3"}
_COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were loaded."""

    loaded: tuple[str, ...]
    left_out: tuple[str, ...]  # names in the file: heads, and blocks after the backbone's last
    averaged: bool  # the first kernel was replaced by its mean over RGB, repeated

    def __str__(self) -> str:
        parts = sorted({name.split(".")[0] for name in self.left_out})
        rest = f"left out {len(self.left_out)} ({', '.join(parts)})" if parts else "nothing left out"
        return f"{len(self.loaded)} tensors loaded, {rest}" + (
            ", first kernel averaged over RGB" if self.averaged else ""
        )


def parse_weights(data: bytes, source: str = "", field: str = FIELD) -> dict[str, Tensor]:
    """A state dict from a file's bytes: safetensors, or ``torch.save`` of tensors alone (read without running any code
    in it).

    The format is recognised from the bytes. A state dict wrapped as ``{"state_dict": ...}`` is unwrapped.

    Args:
        data: the whole file.
        source: name of the file, for messages.
        field: config field that named it, for messages.

    Raises:
        ConfigError: the bytes are no such file, or contain something other than named tensors.
    """
    # A safetensors file starts with a length of 8 bytes and JSON; byte 8 of a torch zip or pickle is never a brace.
    is_safetensors = data[8:9] == b"{"
    try:
        state: Any = (
            safetensors.torch.load(data)
            if is_safetensors
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
    # Malformed bytes make the parsers raise a dozen kinds: UnpicklingError, KeyError, IndexError, struct.error, ...
    except Exception as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            field, source, f"give an intact .safetensors or torch.save file of tensors ({detail})"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ConfigError(
            field, source, f"give a file that maps names to tensors; it contains a {type(state).__name__}"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConfigError(field, source, f"give a file that maps names to tensors; {name!r} is not one")
    return dict(state)


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy checked tensors into a module; its other tensors keep their values. Does nothing on the meta device, where
    weights are only checked.
    """
    if not any(tensor.is_meta for tensor in module.state_dict().values()):
        module.load_state_dict(tensors, strict=False)


def load_backbone(
    backbone: Backbone, state: Mapping[str, Tensor], *, source: str = "", cross_modality: bool | None = None
) -> LoadReport:
    """Load public weights into a backbone of width 1.

    The names are those of torchvision's Inception v3, or of the BN-Inception of pretrained-models.pytorch (and of the
    TSN code it comes from). Heads and the blocks after ``stages`` are left out; any other name that the network lacks
    is an error, so that weights of another network never load in part. Older files have no batch counters and store BN
    vectors as (1, C).

    Two pitfalls of the BN-Inception port: its weights expect BGR pixels in 0..255 minus (104, 117, 128), which is
    ``clip.norm caffe``; and its BN layers have Caffe's momentum of 0.9, which in torch would make the running mean
    follow the last batch only. Momentum and epsilon are not weights; ours stay (0.1; 1e-5, for Inception v3 1e-3).

    For motion the first kernel is replaced by its mean over the three input channels, repeated for all input channels,
    unscaled (cross-modality initialisation of TSN, Wang et al., 2016).

    Args:
        backbone: changed in place, and left untouched if anything is wrong. On the meta device: checked only.
        state: as returned by ``parse_weights``.
        source: name of the file, for messages.
        cross_modality: average the first kernel; None: if the backbone does not take 3 channels.

    Raises:
        ConfigError: names the tensor that is missing, unknown, not finite or of the wrong shape, and the expected
            shape.
    """
    kind = type(backbone)

    def wrong(problem: str) -> ConfigError:
        return ConfigError(FIELD, source, f"{problem}; give the weights of {_NETWORK[kind]}, at model.width 1")

    with torch.device("meta"):
        published = {name: tuple(value.shape) for name, value in kind().state_dict().items()}
    for name, value in state.items():
        if name in published:
            shape = tuple(value.shape)
            if shape != published[name] and shape != (1, *published[name]):
                raise wrong(f"{name} has shape {shape}, expected {published[name]}")
        elif not name.startswith(_HEADS[kind]):
            raise wrong(f"{name} is unknown")
    own = backbone.state_dict()
    average = cross_modality if cross_modality is not None else backbone.in_channels != 3
    adapted: dict[str, Tensor] = {}
    for name, target in own.items():
        if name not in state:
            if not name.endswith(_COUNTER):
                raise wrong(f"{name} is missing, expected shape {published[name]}")
            adapted[name] = target
            continue
        value = state[name].reshape(published[name])
        if not value.isfinite().all():
            raise wrong(f"{name} contains a value that is not finite")
        if name == _FIRST[kind] and average:
            value = value.mean(dim=1, keepdim=True).expand(-1, backbone.in_channels, -1, -1)
        if value.shape != target.shape:  # the file is as published, so the backbone is narrower or wider
            raise wrong(f"{name} has shape {tuple(value.shape)}, the backbone has {tuple(target.shape)}")
        adapted[name] = value
    fill(backbone, adapted)
    report = LoadReport(
        tuple(name for name in own if name in state), tuple(name for name in state if name not in own), average
    )
    log.info("%s: %s", source or "weights", report)
    return report
