"""Knobs of the two model families: CRN's are in ``crn``, MRST-Net's here."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require
from pipeline.config.crn import BackboneName, CRNConfig
from pipeline.config.modality import CHANNELS, Modality

__all__ = ["CHANNELS", "BackboneName", "CRNConfig", "MRSTConfig", "Modality", "ModelConfig", "Unit"]

Unit = Literal["P", "S", "T", "STF", "STD", "2D", "C3D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MRSTConfig:
    """Mutually reinforced spatio-temporal network (Wu et al.)."""

    kind: Literal["mrst"] = "mrst"
    modalities: tuple[Modality, ...] = ("rgb",)
    layout: Literal["resnet", "c3d"] = "resnet"
    """MRST-Net of Table 1, or C3D's eight layers and two fully connected ones (Table 2)."""
    unit: Unit = "T"
    """Order of reinforcement: parallel, temporal first (S), spatial first (T), equations 1-3. STF: gates of S and T
    themselves; STD: S + T without gates; 2D: S alone, the twin for still images (no LSTM; layout resnet); C3D: 3x3x3
    convolutions (layout c3d).
    """
    blocks: tuple[int, ...] = (3, 4, 12, 11, 3)
    """Units of conv2..conv6 (Table 1)."""
    mid: tuple[int, ...] = (64, 64, 128, 256, 256)
    """m: inner channels of conv2..conv6."""
    out: tuple[int, ...] = (128, 256, 512, 512, 512)
    """Channels that leave conv2..conv6."""
    stem: int = 64
    """Channels of conv1."""
    stem_downsample: Literal["stride", "pool"] = "stride"
    """How conv1 halves the picture: its convolutions have stride (1, 2, 2); or stride 1, and a 1x2x2 max-pool follows
    them, in front of the gates. Layout resnet.
    """
    shortcut: Literal["pad", "proj"] = "pad"
    """Where channels change: zero padding (no weights), or 1x1x1 convolution and BN."""
    pooled_gates: bool = True
    """Form gates from pooled vectors where that is exact (same numbers, less work). With gate_bn it is exact in
    evaluation alone: training forms them from maps.
    """
    gate_bn: bool = False
    """Batch normalisation behind each of the four 1x1x1 matrices of units P, S and T, before their products are added.
    Needs several clips at once (see ``pipeline.models.mrst.mutual``).
    """
    gate_bias: bool = False
    """A bias of each of the four 1x1x1 matrices of units P, S and T."""
    st_relu: bool = True
    """ReLU behind the BN of S and T; off: S and T are the outputs of BN."""
    num_steps: int = 16
    """T: frames of a clip."""
    lstm: int = 1024
    """Units of the LSTM over time; 0: none, the mean of the frames' features goes to the classifier."""
    dropout: float = 0.5
    c3d_out: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512)
    """Layout c3d: channels of its eight layers; units other than C3D work on a quarter of them inside."""
    c3d_fc: int = 4096
    """Layout c3d: width of the two fully connected layers."""
    pretrained: str = ""
    """Weights of the twin for still images (unit 2D, the rest alike), a .safetensors or torch.save file:
    s3://BUCKET/KEY, or a path (file:// or not) that every node sees. Empty: none. start_from takes the twin's run.
    """
    recompute: bool = False
    """Activation checkpointing: each residual unit or layer is computed again in the backward pass. Less memory,
    same numbers.
    """
    start: Literal["fresh", "near"] = "fresh"
    """How what the twin lacks begins: as without pre-training; or small, with features near the twin's."""

    def __post_init__(self) -> None:
        require(len(self.modalities) == 1, "model.modalities", self.modalities, "MRST-Net takes one modality")
        c3d = self.layout == "c3d"
        require(
            c3d or self.unit != "C3D", "model.unit", self.unit, "3x3x3 convolutions stand in model.layout c3d alone"
        )
        require(
            not (c3d and self.unit == "2D"),
            "model.unit",
            self.unit,
            "the twin for still images has model.layout resnet",
        )
        fix = "the c3d layout halves time three times before its last pool: give at least 8 frames"
        require(not (c3d and self.num_steps < 8), "model.num_steps", self.num_steps, fix)
        fix = "the c3d layout has eight layers of at least 4 channels"
        require(len(self.c3d_out) == 8 and min(self.c3d_out) >= 4, "model.c3d_out", self.c3d_out, fix)
        fix = "the twin's weights are for model.layout resnet and a unit other than 2D"
        require(not (self.pretrained and (c3d or self.unit == "2D")), "model.pretrained", self.pretrained, fix)
        require(
            self.start == "fresh" or self.unit != "STF",
            "model.start",
            self.start,
            "gates of unit STF depend on S alone and cannot be kept close to 1/2: use fresh",
        )
        require(self.c3d_fc >= 1, "model.c3d_fc", self.c3d_fc, "must be at least 1")
        for name in ("blocks", "mid", "out"):
            values = getattr(self, name)
            require(
                len(values) == len(self.blocks) and len(values) >= 1,
                f"model.{name}",
                values,
                "blocks, mid and out need one number a stage",
            )
            require(all(v >= 1 for v in values), f"model.{name}", values, "numbers must be at least 1")
        require(self.stem >= 1, "model.stem", self.stem, "must be at least 1")
        require(
            all(b >= a for a, b in zip((self.stem, *self.out), self.out, strict=False)) or self.shortcut == "proj",
            "model.out",
            self.out,
            "channels may only grow with shortcut=pad; use proj",
        )
        require(self.num_steps >= 1, "model.num_steps", self.num_steps, "must be at least 1")
        require(self.lstm >= 0, "model.lstm", self.lstm, "must be at least 1, or 0 for no LSTM")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        self._check_readings()

    def _check_readings(self) -> None:
        for name in ("gate_bn", "gate_bias"):
            on, fix = getattr(self, name), f"unit {self.unit} has no matrices: use unit P, S or T"
            require(not on or self.unit in ("P", "S", "T"), f"model.{name}", on, fix)
        fix = "the BN of gate_bn takes away any bias in front of it and has its own: use one of the two"
        require(not (self.gate_bias and self.gate_bn), "model.gate_bias", self.gate_bias, fix)
        fix = "unit C3D has no S and T: leave this on"
        require(self.st_relu or self.unit != "C3D", "model.st_relu", self.st_relu, fix)
        if self.layout == "c3d":
            fix = "conv1 of model.layout c3d keeps the size of the picture: leave this at stride"
            require(self.stem_downsample == "stride", "model.stem_downsample", self.stem_downsample, fix)
            require(self.lstm != 0, "model.lstm", self.lstm, "model.layout c3d has no LSTM: leave this out")


ModelConfig = CRNConfig | MRSTConfig
