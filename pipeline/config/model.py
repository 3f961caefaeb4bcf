"""Knobs of the two model families. MODELS' symbols: f hidden maps, R adapted maps, T steps, N classes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require

Modality = Literal["rgb", "flow", "diff", "diff-online"]
"""What a branch sees. diff is stored; diff-online is the same difference, taken from the decoded RGB frames instead."""
CHANNELS: dict[str, int] = {"rgb": 3, "flow": 2, "diff": 3, "diff-online": 3}  # channels of one frame of a modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRNConfig:
    """Coupled Recurrent Network (Sun et al.), or one of its uncoupled relatives."""

    kind: Literal["crn"] = "crn"
    modalities: tuple[Modality, ...] = ("rgb", "flow")
    """One or two branches, in order. Two for a CRN; one trains a single stream."""
    partner: Literal["other", "self", "off"] = "other"
    """Whose hidden state enters RIB and RAB: the other branch's (CRN), its own (N-CRN), nobody's (plain)."""
    rib: Literal["rib", "srib", "none"] = "rib"
    """Recurrent Interpretation Block: three 3x3 of dilation 1,2,3, concatenated; one 3x3; identity."""
    hidden: int = 512
    """f: maps of every ConvLSTM layer."""
    adapted: int = 512
    """R: maps that RAB, a 1x1 convolution, makes of [X; RIB(H)]."""
    num_layers: int = 2
    kernel_size: int = 3
    num_steps: int = 10
    """T: frames of a clip."""
    strategy: Literal["a", "b", "c", "d"] = "c"
    """Supervised steps: a {T}, b all, c {T and one drawn}, d {T and two drawn}."""
    backbone: Literal["bninception"] = "bninception"
    width: float = 1.0
    """Multiplier of every channel count of the backbone (rounded up to a multiple of 8)."""
    backbone_stages: Literal[3, 4, 5] = 5
    """Keep inception blocks up to 3c, 4e or 5b: output stride 16, 32, 32 of the input size."""
    stack: int = 1
    """Motion frames joined along channels at each step (the paper's habit: 5)."""
    dropout: float = 0.0
    """In front of the classifier."""

    def __post_init__(self) -> None:
        require(len(self.modalities) in (1, 2), "model.modalities", self.modalities, "give one or two modalities")
        require(len(set(self.modalities)) == len(self.modalities), "model.modalities", self.modalities, "name each modality once")
        require(not (self.partner == "other" and len(self.modalities) == 1), "model.partner", self.partner, "a single stream has no other branch: use self or off")
        for name in ("hidden", "adapted", "num_layers", "num_steps", "stack"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be at least 1")
        require(self.kernel_size % 2 == 1, "model.kernel_size", self.kernel_size, "must be odd, so that maps keep their size")
        require(0 < self.width <= 4, "model.width", self.width, "must be in (0, 4]")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        fix = "a single step has no step before it to hear: use partner off"
        require(not (self.partner != "off" and self.num_steps == 1), "model.num_steps", self.num_steps, fix)
        least = {"a": 1, "b": 1, "c": 2, "d": 3}[self.strategy]
        require(self.num_steps >= least, "model.num_steps", self.num_steps, f"strategy {self.strategy} needs at least {least} steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MRSTConfig:
    """Mutually reinforced spatio-temporal network (Wu et al.)."""

    kind: Literal["mrst"] = "mrst"
    modalities: tuple[Modality, ...] = ("rgb",)
    unit: Literal["P", "S", "T"] = "T"
    """Order of reinforcement: parallel, temporal first (S), spatial first (T). Equations 1-3."""
    blocks: tuple[int, ...] = (3, 4, 12, 11, 3)
    """Units of conv2..conv6 (Table 1)."""
    mid: tuple[int, ...] = (64, 64, 128, 256, 256)
    """m: inner channels of conv2..conv6."""
    out: tuple[int, ...] = (128, 256, 512, 512, 512)
    """Channels that leave conv2..conv6."""
    stem: int = 64
    """Channels of conv1."""
    shortcut: Literal["pad", "proj"] = "pad"
    """Where channels change: zero padding (no weights), or 1x1x1 convolution and BN."""
    pooled_gates: bool = True
    """Form gates from pooled vectors where that is exact (same numbers, less work)."""
    num_steps: int = 16
    """T: frames of a clip."""
    lstm: int = 1024
    """Units of the LSTM over time."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require(len(self.modalities) == 1, "model.modalities", self.modalities, "MRST-Net takes one modality")
        for name in ("blocks", "mid", "out"):
            values = getattr(self, name)
            require(len(values) == len(self.blocks) and len(values) >= 1, f"model.{name}", values, "blocks, mid and out need one number a stage")
            require(all(v >= 1 for v in values), f"model.{name}", values, "numbers must be at least 1")
        require(self.stem >= 1, "model.stem", self.stem, "must be at least 1")
        require(all(b >= a for a, b in zip((self.stem, *self.out), self.out, strict=False)) or self.shortcut == "proj", "model.out", self.out, "channels may only grow with shortcut=pad; use proj")
        require(self.num_steps >= 1, "model.num_steps", self.num_steps, "must be at least 1")
        require(self.lstm >= 1, "model.lstm", self.lstm, "must be at least 1")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")


ModelConfig = CRNConfig | MRSTConfig
