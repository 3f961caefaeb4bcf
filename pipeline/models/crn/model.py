"""Coupled Recurrent Network (Sun et al.) and its uncoupled relatives, in one code path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.config.model import CHANNELS, CRNConfig
from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3
from pipeline.models.batchnorm import freeze_batchnorm
from pipeline.models.crn.convlstm import State
from pipeline.models.crn.recurrence import Head, Recurrence
from pipeline.models.interface import ActionModel, first_convolution

_DRAWN_STEPS = {"a": 0, "c": 1, "d": 2}  # besides the last; strategy b takes all

Backbone = BNInception | InceptionV3


def make_backbone(config: CRNConfig, in_channels: int) -> Backbone:
    """The backbone of one branch, with random weights."""
    kind = InceptionV3 if config.backbone == "inceptionv3" else BNInception
    backbone = kind(in_channels, config.width, config.backbone_stages)
    backbone.recompute = config.recompute
    return backbone


def feature_maps(backbone: Backbone, x_BTCHW: Tensor) -> Tensor:
    """Feature maps of all frames at once, step-major: (T * B, Cx, h, w)."""
    # Step-major order makes each step's maps one contiguous block; batch statistics do not depend on the order.
    # Channels-last maps stay so from here to the head: measured 1.6 times faster for the backbone on a CPU, and what
    # tensor cores want.
    frames = x_BTCHW.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return backbone(frames)


class FeatureBranch(nn.Module):
    """The backbone of one modality: with early fusion it is all that a branch consists of."""

    def __init__(self, config: CRNConfig, in_channels: int) -> None:
        super().__init__()
        self.backbone = make_backbone(config, in_channels)


class CRNBranch(Recurrence):
    """One branch: backbone -> RAB (on X and RIB of the partner's hidden state) -> ConvLSTM layers -> head, if it has
    one. Equations 1-6 and 9.

    Args:
        config: of the whole network.
        in_channels: of one frame of this branch's modality.
        num_classes: N; None: no head.
    """

    def __init__(self, config: CRNConfig, in_channels: int, num_classes: int | None) -> None:
        backbone = make_backbone(config, in_channels)
        super().__init__(config, backbone.out_channels)
        self.backbone = backbone
        self.head = None if num_classes is None else Head(config.hidden, num_classes, config.dropout)


class JointRecurrence(Recurrence):
    """Early fusion, after the backbones: RAB on both feature maps, ConvLSTM layers, one head."""

    def __init__(self, config: CRNConfig, in_channels: int, num_classes: int) -> None:
        super().__init__(config, in_channels)
        self.head = Head(config.hidden, num_classes, config.dropout)


class LateFusion(nn.Module):
    """Late fusion, after the recurrences: a 1x1 convolution on the top H of both (2 f -> f), one head."""

    def __init__(self, config: CRNConfig, num_classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * config.hidden, config.hidden, 1)
        self.head = Head(config.hidden, num_classes, config.dropout)

    def forward(self, tops: list[Tensor]) -> Tensor:
        return self.head(self.mix(torch.cat(tops, dim=1)))


class CRN(ActionModel):
    r"""Two recurrent branches, each fed the other's hidden state of the previous step.

        Xhat_t = RAB([X_t; RIB(H_{t-1} of the partner)])      H_t, C_t = ConvLSTM layers(Xhat_t, H_{t-1}, C_{t-1})
        Q_t = FC(dropout(GAP(H_t)))

    The H that a branch passes on is that of its top layer. ``config.partner`` selects the partner: "other" is the
    paper's CRN, "self" its N-CRN baseline (the branch's own H, through ``config.rib`` and RAB), "off" a plain ConvLSTM
    whose RAB takes X only. At the first step all states are zero, and so is RIB's output, unless
    ``config.first_partner`` is "rib": then it is RIB of zero maps, which passes on RIB's biases.

    ``config.fusion`` gives the alternatives of figure 4, whose only score is named "fused". Early: RAB on [Xa; Xb], one
    recurrence, one head. Late: two uncoupled recurrences, a linear 1x1 convolution on their top H, one head.

    Source: Sun et al., equations 1-6 and 9, section 5.1, figure 4. Each branch has its own weights. Coupling at the
    branch input, not at every layer, is our reading; ``config.coupling`` offers the other. For speed, frames are folded
    into the batch for the backbone, RAB's input half runs once for all steps, zero terms of the first step are skipped,
    the four gates are one convolution, and the head runs at scored steps only. None of this changes the sums:
    ``config.exact_literal`` does without it (except in the backbone).
    ``tests/unit/pipeline/models/crn/test_variants.py`` holds the fast path against ``tests/oracles/crn_equations.py``,
    and ``exact_literal`` against the fast path.

    Args:
        config: sizes, coupling and fusion.
        num_classes: N.

    Shape:
        inputs[m]: (B, T, C, H, W), C = 3 for rgb, 2 * stack for flow, 3 * stack for diff; any H, W
            that the backbone accepts.
        returns[m]: (B, S, N); with fusion, under the single key "fused".

    Cost (f = R = 512, RGB and 5 stacked flows, N = 101): 92.4 M parameters besides the backbones' 20.6 M, and 88.6 G
    multiply-adds for a clip of 10 steps at 224 pixels. Early fusion has 38.9 M, late fusion 77.1 M parameters besides
    the backbones.
    """

    def __init__(self, config: CRNConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(config.modalities)
        self.num_steps = config.num_steps
        self.channels = {m: CHANNELS[m] * (1 if m == "rgb" else config.stack) for m in config.modalities}
        if config.fusion == "early":
            self.branches = nn.ModuleDict({m: FeatureBranch(config, self.channels[m]) for m in config.modalities})
            both = sum(self.backbone(m).out_channels for m in self.modalities)
            self.joint = JointRecurrence(config, both, num_classes)
        else:
            own_head = num_classes if config.fusion == "none" else None
            self.branches = nn.ModuleDict({m: CRNBranch(config, self.channels[m], own_head) for m in config.modalities})
        if config.fusion == "late":
            self.late = LateFusion(config, num_classes)
        order = self.modalities[::-1] if config.partner == "other" else self.modalities
        self._partner_of: dict[str, str] = (
            {} if config.partner == "off" else dict(zip(self.modalities, order, strict=True))
        )
        self._freeze()

    def branch(self, modality: str) -> CRNBranch:
        """The branch of one modality. With early fusion there is none: its parts are ``backbone`` and ``joint``."""
        found = self.branches[modality]
        assert isinstance(found, CRNBranch)
        return found

    def backbone(self, modality: str) -> Backbone:
        """The backbone of one modality."""
        found = self.branches[modality].backbone
        assert isinstance(found, BNInception | InceptionV3)
        return found

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but layers frozen by ``config.backbone_norm`` stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.config.backbone_norm != "train":
            for m in self.modalities:
                freeze_batchnorm(self.backbone(m), keep=1 if self.config.backbone_norm == "partial" else 0)

    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        self.check_inputs(inputs)
        return self.run_scores(inputs, self.check_steps(steps))

    def scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor) -> dict[str, Tensor]:
        maps = {m: feature_maps(self.backbone(m), inputs[m]) for m in self.modalities}
        if self.config.fusion == "early":
            joint = torch.cat([maps[m] for m in self.modalities], dim=1)
            tops = self._recur({"fused": self.joint}, {"fused": joint}, steps)
            logits = {"fused": self.joint.head(tops["fused"])}
        else:
            tops = self._recur({m: self.branch(m) for m in self.modalities}, maps, steps)
            if self.config.fusion == "late":
                logits = {"fused": self.late([tops[m] for m in self.modalities])}
            else:
                logits = {m: self._score(m, tops[m]) for m in self.modalities}
        return {name: scores.unflatten(0, (-1, len(steps))) for name, scores in logits.items()}

    def _score(self, modality: str, top: Tensor) -> Tensor:
        head = self.branch(modality).head
        assert head is not None
        return head(top)

    def _recur(
        self, streams: Mapping[str, Recurrence], maps: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor
    ) -> dict[str, Tensor]:
        """Top-layer H of every stream at the chosen steps, clip-major: (B * S, f, h, w), so that the scores are later a
        (B, S, N) view.
        """
        adapted = {s: stream.adapt(maps[s], self.num_steps) for s, stream in streams.items()}
        states: dict[str, list[State]] = {}
        tops: dict[str, list[Tensor]] = {s: [] for s in streams}
        # The values of a tensor of steps are unknown here: H of every step is kept and indexed at the end.
        kept = range(self.num_steps) if isinstance(steps, Tensor) else steps
        for t in range(kept[-1] + 1):
            # Both branches read the states of t-1, so the new states replace them only after both have stepped.
            previous_hidden = {s: [h for h, _ in layers] for s, layers in states.items()}
            states = {
                s: stream.step(adapted[s][t], previous_hidden.get(self._partner_of.get(s, "")), states.get(s))
                for s, stream in streams.items()
            }
            if t in kept:
                for s in streams:
                    tops[s].append(states[s][-1][0])
        stacked = {s: torch.stack(maps_of_steps, dim=1) for s, maps_of_steps in tops.items()}
        return {
            s: (x.index_select(1, steps) if isinstance(steps, Tensor) else x).flatten(0, 1) for s, x in stacked.items()
        }

    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        """Strategy a: the last step; b: all steps; c and d: the last and one or two others, drawn uniformly without
        replacement (section 5.1).
        """
        last = self.num_steps - 1
        if self.config.strategy == "b":
            return tuple(range(self.num_steps))
        drawn = torch.randperm(last, generator=generator, device=generator.device)[: _DRAWN_STEPS[self.config.strategy]]
        return (*sorted(drawn.tolist()), last)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbones (in the paper, learning rate 1e-3) and everything else (1e-2)."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
        for name, parameter in self.named_parameters():
            groups["backbone" if ".backbone." in name else "head"].append(parameter)
        return groups

    def first_convolutions(self) -> dict[str, list[nn.Module]]:
        """Of the backbones."""
        return {m: [first_convolution(self.backbone(m))] for m in self.modalities}
