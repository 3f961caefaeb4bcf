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

from pipeline.config.crn import BackboneName
from pipeline.errors import ConfigError
from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3

log = logging.getLogger(__name__)

Backbone = BNInception | InceptionV3

FIELD = "model.pretrained"
# Classifiers and the auxiliary head in the public files; the backbones have none.
_HEADS: dict[type, tuple[str, ...]] = {
    BNInception: ("last_linear.", "fc_action.", "fc.", "new_fc."),
    InceptionV3: ("fc.", "AuxLogits.", "new_fc."),
}
_WRAPPERS = ("module.", "base_model.")
"""What DataParallel, and TSN around its backbone, put in front of every name; both may be there."""
_FIRST = {BNInception: "conv1_7x7_s2.weight", InceptionV3: "Conv2d_1a_3x3.conv.weight"}
_NETWORK = {BNInception: "the Caffe-style BN-Inception", InceptionV3: "torchvision's Inception v3"}
_COUNTER = "num_batches_tracked"
_INPUT_STD = {"bninception": 1.0, "inceptionv3": 127.5}
"""What the codes 0..255 of pictures were divided by, after their mean was taken off, when the weights were trained."""
_FLOW_BOUND_PX = 20.0
"""TSN's flow pictures: codes 0..255 stand for -20..20 pixels."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were loaded."""

    loaded: tuple[str, ...]
    left_out: tuple[str, ...]  # names in the file: heads, and blocks after the backbone's last
    averaged: bool  # the first kernel was replaced by its mean over RGB, repeated
    scale: float = 1.0  # and multiplied by this

    def __str__(self) -> str:
        parts = sorted({name.split(".")[0] for name in self.left_out})
        rest = f"left out {len(self.left_out)} ({', '.join(parts)})" if parts else "nothing left out"
        averaged = ", first kernel averaged over RGB" if self.averaged else ""
        scaled = f", first kernel times {self.scale:g}" if self.scale != 1 else ""
        return f"{len(self.loaded)} tensors loaded, {rest}{averaged}{scaled}"


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


def flow_scale(backbone: BackboneName, flow_std: float) -> float:
    """What the first kernel of a flow branch is multiplied by where batch normalisation is frozen.

    Public weights, and with them the statistics of their batch normalisation, belong to inputs on the scale of
    pictures: codes 0..255 for BN-Inception, -1..1 for Inception v3. TSN feeds flow on that scale, its +-20 pixels as
    codes 0..255: 6.375 codes a pixel, over 127.5 for Inception v3. Our networks see pixels / ``flow_std``, with the
    default of 5 about 32 times less than TSN's BN-Inception, and 4 times more than its Inception v3. Layers that learn
    adapt their statistics; frozen ones do not. A convolution is linear, so scaling its kernel is the same as scaling
    its input. RGB differences need no factor: they are differences of normalised frames, here as in TSN.
    """
    return flow_std * 255 / (2 * _FLOW_BOUND_PX) / _INPUT_STD[backbone]


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with names as the network itself gives them. A name that occurs twice then keeps its prefix."""
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name
        while short.startswith(_WRAPPERS):
            short = short.partition(".")[2]
        plain[name if short in plain else short] = value
    return plain


def load_backbone(
    backbone: Backbone,
    state: Mapping[str, Tensor],
    *,
    source: str = "",
    cross_modality: bool | None = None,
    scale: float = 1.0,
) -> LoadReport:
    """Load public weights into a backbone of width 1.

    The names are those of torchvision's Inception v3, or of the BN-Inception of pretrained-models.pytorch (and of the
    TSN code it comes from). Heads and the blocks after ``stages`` are left out; any other name that the network lacks
    is an error, so that weights of another network never load in part. Older files have no batch counters and store BN
    vectors as (1, C). Checkpoints of a wrapped network are read too: DataParallel's ``module.`` and TSN's
    ``base_model.`` in front of a name are taken off, and TSN's own classifier ``new_fc`` is a head.

    Two pitfalls of the BN-Inception port: its weights expect BGR pixels in 0..255 minus (104, 117, 128), which is
    ``clip.norm caffe``; and its BN layers have Caffe's momentum of 0.9, which in torch would make the running mean
    follow the last batch only. Momentum and epsilon are not weights; ours stay (0.1; 1e-5, for Inception v3 1e-3).

    For motion the first kernel is replaced by its mean over the three input channels, repeated for all input channels
    (cross-modality initialisation of TSN, Wang et al., 2016). It is not scaled, unless batch normalisation is frozen:
    see ``flow_scale``.

    Args:
        backbone: changed in place, and left untouched if anything is wrong. On the meta device: checked only.
        state: as returned by ``parse_weights``.
        source: name of the file, for messages.
        cross_modality: average the first kernel; None: if the backbone does not take 3 channels.
        scale: what the first kernel is multiplied by.

    Raises:
        ConfigError: names the tensor that is missing, unknown, not finite or of the wrong shape, and the expected
            shape.
    """
    kind = type(backbone)

    def wrong(problem: str) -> ConfigError:
        return ConfigError(FIELD, source, f"{problem}; give the weights of {_NETWORK[kind]}, at model.width 1")

    with torch.device("meta"):
        published = {name: tuple(value.shape) for name, value in kind().state_dict().items()}
    given, state = state, _unwrapped(state)
    if state and not any(name in published for name in state):
        first = next(iter(given))
        raise wrong(
            f"none of its {len(given)} tensors, such as {first}, has a name of that network, such as {_FIRST[kind]}"
        )
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
        if name == _FIRST[kind] and scale != 1:
            value = value * scale
        if value.shape != target.shape:  # the file is as published, so the backbone is narrower or wider
            raise wrong(f"{name} has shape {tuple(value.shape)}, the backbone has {tuple(target.shape)}")
        adapted[name] = value
    fill(backbone, adapted)
    report = LoadReport(
        tuple(name for name in own if name in state), tuple(name for name in state if name not in own), average, scale
    )
    log.info("%s: %s", source or "weights", report)
    return report
