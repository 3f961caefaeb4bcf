"""Knobs of CRN. MODELS' symbols: f hidden maps, R adapted maps, T steps, N classes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require
from pipeline.config.modality import Modality

BackboneName = Literal["bninception", "inceptionv3"]


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
    first_partner: Literal["zero", "rib"] = "zero"
    """What RAB gets at the first step, where no hidden state has come yet. zero: nothing. rib: what equation 9 makes of
    a hidden state of zeros; it differs from zero by the biases of RIB alone.
    """
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
    """Motion frames joined along channels at each step. The paper names no number; the recipes of its rows take 5, as
    TSN does.
    """
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
        fix = "without partner or RIB there is no RIB(0): use zero"
        there = self.partner != "off" and self.rib != "none"
        require(there or self.first_partner == "zero", "model.first_partner", self.first_partner, fix)
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
