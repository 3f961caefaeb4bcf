"""Knobs of the two model families. MODELS' symbols: f hidden maps, R adapted maps, T steps, N classes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require

Modality = Literal["rgb", "flow", "diff", "diff-online"]
"""What a branch sees. diff is stored; diff-online is the same difference, taken from the decoded RGB frames instead."""
BackboneName = Literal["bninception", "inceptionv3"]
Unit = Literal["P", "S", "T", "STF", "STD", "2D", "C3D"]
CHANNELS: dict[str, int] = {"rgb": 3, "flow": 2, "diff": 3, "diff-online": 3}  # channels of one frame of a modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRNConfig:
    """Coupled Recurrent Network (Sun et al.), or one of its uncoupled relatives."""

    kind: Literal["crn"] = "crn"
    modalities: tuple[Modality, ...] = ("rgb", "flow")
    """One or two branches, in order. Two for a CRN; one trains a single stream."""
    partner: Literal["other", "self", "off"] = "other"
    """Whose hidden state enters RIB and RAB: the other branch's (CRN), its own (N-CRN), none (plain)."""
    rib: Literal["rib", "srib", "none"] = "rib"
    """Recurrent Interpretation Block: three dilated 3x3; one 3x3; identity."""
    rib_form: Literal["cat", "sum", "split", "bottleneck"] = "cat"
    """How the dilated 3x3 join (the paper's figure leaves it open): f maps each, concatenated; added; f/3 maps
    each, concatenated; on f/4 maps behind 1x1, then a 1x1 to f.
    """
    rib_dilations: tuple[int, ...] = (1, 2, 3)
    rib_activation: Literal["relu", "none"] = "relu"
    """Behind the convolutions of rib and srib."""
    coupling: Literal["top", "each"] = "top"
    """Which of the partner's hidden states are used: its top layer's H, at the branch input; or every layer's H at the
    same layer, each with its own RIB and RAB.
    """
    fusion: Literal["none", "early", "late"] = "none"
    """none: a score per branch. early: both feature maps through one RAB into one recurrence. late: two
    recurrences, a 1x1 of both top H. One score then (Fig. 4).
    """
    hidden: int = 512
    """f: maps of every ConvLSTM layer."""
    adapted: int = 512
    """R: maps that RAB, a 1x1 convolution, makes of [X; RIB(H)]; 0: as many as X has."""
    num_layers: int = 2
    kernel_size: int = 3
    num_steps: int = 10
    """T: frames of a clip."""
    strategy: Literal["a", "b", "c", "d"] = "c"
    """Supervised steps: a {T}, b all, c {T and one drawn}, d {T and two drawn}."""
    backbone: BackboneName = "bninception"
    pretrained: str = ""
    """Public ImageNet weights of the backbone, a .safetensors or torch.save file: torchvision's Inception v3, or
    Caffe-style BN-Inception. s3://BUCKET/KEY, or a path (file:// or not) that every node sees. Empty: none.
    """
    backbone_norm: Literal["train", "partial", "frozen"] = "train"
    """Batch normalisation of the backbones: learns; only the first layer learns (TSN's partial BN); none does."""
    width: float = 1.0
    """Multiplier of every channel count of the backbone (rounded up to a multiple of 8)."""
    backbone_stages: Literal[3, 4, 5] = 5
    """Keep inception blocks up to 3c, 4e or 5b: output stride 16, 32, 32 of the input size. Inception v3: 5d, 6e,
    7c; stride 8, 16, 32.
    """
    stack: int = 1
    """Motion frames joined along channels at each step (the paper uses 5)."""
    dropout: float = 0.0
    """In front of the classifier."""
    recompute: bool = False
    """Activation checkpointing: backbone blocks and recurrent steps are computed again in the backward pass. Less
    memory, same numbers.
    """
    exact_literal: bool = False
    """Compute the recurrence as the equations stand, step by step. Same numbers, slower: the oracle of the
    benchmark.
    """

    def __post_init__(self) -> None:
        require(len(self.modalities) in (1, 2), "model.modalities", self.modalities, "give one or two modalities")
        require(
            len(set(self.modalities)) == len(self.modalities),
            "model.modalities",
            self.modalities,
            "name each modality once",
        )
        require(
            not (self.partner == "other" and len(self.modalities) == 1),
            "model.partner",
            self.partner,
            "a single stream has no other branch: use self or off",
        )
        for name in ("hidden", "num_layers", "num_steps", "stack"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be at least 1")
        require(
            self.adapted >= 0,
            "model.adapted",
            self.adapted,
            "must be at least 1, or 0 for as many as the backbone gives",
        )
        self._check_variants()
        require(
            self.kernel_size % 2 == 1,
            "model.kernel_size",
            self.kernel_size,
            "must be odd, so that maps keep their size",
        )
        require(0 < self.width <= 4, "model.width", self.width, "must be in (0, 4]")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        fix = "a single step has no step before it whose hidden state it could see: use partner off"
        require(not (self.partner != "off" and self.num_steps == 1), "model.num_steps", self.num_steps, fix)
        least = {"a": 1, "b": 1, "c": 2, "d": 3}[self.strategy]
        require(
            self.num_steps >= least,
            "model.num_steps",
            self.num_steps,
            f"strategy {self.strategy} needs at least {least} steps",
        )
        require(
            not (self.pretrained and self.width != 1),
            "model.pretrained",
            self.pretrained,
            "public weights need model.width 1",
        )

    def _check_variants(self) -> None:
        right = len(self.rib_dilations) >= 1 and all(d >= 1 for d in self.rib_dilations)
        require(right, "model.rib_dilations", self.rib_dilations, "give one or more numbers, each at least 1")
        for name, default in (("rib_form", "cat"), ("rib_dilations", (1, 2, 3))):
            value = getattr(self, name)
            require(
                self.rib == "rib" or value == default,
                f"model.{name}",
                value,
                f"rib {self.rib} has no such choice: use rib rib, or leave {name} at {default}",
            )
        least = {"split": len(self.rib_dilations), "bottleneck": 4}.get(self.rib_form, 1)
        require(
            self.hidden >= least, "model.hidden", self.hidden, f"rib_form {self.rib_form} needs at least {least} maps"
        )
        if self.coupling == "each":
            require(
                self.partner != "off",
                "model.coupling",
                self.coupling,
                "with partner off there is no partner's hidden state: use coupling top",
            )
        if self.fusion != "none":
            require(len(self.modalities) == 2, "model.fusion", self.fusion, "needs two modalities")
            require(
                self.partner == "off",
                "model.partner",
                self.partner,
                f"{self.fusion} fusion joins uncoupled streams (Fig. 4): use partner off",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MRSTConfig:
    """Mutually reinforced spatio-temporal network (Wu et al.)."""

    kind: Literal["mrst"] = "mrst"
    modalities: tuple[Modality, ...] = ("rgb",)
    layout: Literal["resnet", "c3d"] = "resnet"
    """MRST-Net of Table 1, or C3D's eight layers and two fully connected ones (Table 2)."""
    unit: Unit = "T"
    """Order of reinforcement: parallel, temporal first (S), spatial first (T), equations 1-3. STF: gates of S and T
    themselves;
    STD: S + T without gates; 2D: S alone, the twin for still images (no LSTM; layout resnet); C3D: 3x3x3 convolutions
    (layout c3d).
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
