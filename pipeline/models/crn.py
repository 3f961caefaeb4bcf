"""Coupled Recurrent Network (Sun et al.) and its uncoupled relatives, in one code path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.config.model import CHANNELS, CRNConfig
from pipeline.models.blocks import RAB, RIB, Unchanged, make_rib
from pipeline.models.bninception import BNInception
from pipeline.models.convlstm import ConvLSTMCell, State
from pipeline.models.interface import ActionModel
from pipeline.models.precision import full_precision

_DRAWN_STEPS = {"a": 0, "c": 1, "d": 2}  # besides the last; strategy b takes all


class Head(nn.Module):
    """G of equation 6: global average pooling, dropout, linear classifier.

    Pooling and the product run in the parameters' dtype, outside autocast: they cost nothing and feed the loss.

    Shape:
        h_BCHW: (B, f, H, W); returns logits (B, N).
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        with full_precision(h_BCHW):
            pooled = h_BCHW.to(self.fc.weight.dtype).mean(dim=(2, 3))
            return self.fc(self.dropout(pooled))


class CRNBranch(nn.Module):
    """One branch: backbone -> RAB (with RIB of what it hears) -> ConvLSTM layers -> head. Equations 1-6, 9.

    Args:
        config: of the whole network.
        in_channels: of one frame of this branch's modality.
        num_classes: N.
    """

    def __init__(self, config: CRNConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = BNInception(in_channels, config.width, config.backbone_stages)
        self.rib: RIB | Unchanged | None = None if config.partner == "off" else make_rib(config.rib, config.hidden)
        heard = 0 if self.rib is None else self.rib.out_channels
        self.rab = RAB(self.backbone.out_channels, heard, config.adapted)
        inputs = [config.adapted] + [config.hidden] * (config.num_layers - 1)
        self.cells = nn.ModuleList(ConvLSTMCell(cin, config.hidden, config.kernel_size) for cin in inputs)
        self.head = Head(config.hidden, num_classes, config.dropout)

    def adapt_frames(self, x_BTCHW: Tensor) -> list[Tensor]:
        """Backbone and the input half of RAB for all frames at once: T tensors (B, R, h, w)."""
        steps = x_BTCHW.shape[1]
        # Step-major order makes each step's maps one contiguous block; batch statistics do not depend on the order.
        # Channels-last maps stay so from here to the head: measured 1.6 times faster for the backbone on a CPU, and what tensor cores want.
        frames = x_BTCHW.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return list(self.rab.from_input(self.backbone(frames)).chunk(steps))

    def step(self, adapted_BCHW: Tensor, heard_BCHW: Tensor | None, states: list[State] | None) -> list[State]:
        """One recurrence: new (H, C) of every layer from step t's frame, the heard H of t-1 (None: nothing) and own states."""
        x = adapted_BCHW
        if self.rib is not None and heard_BCHW is not None:
            x = self.rab.add_heard(x, self.rib(heard_BCHW))
        new: list[State] = []
        for index, cell in enumerate(self.cells):
            new.append(cell(x, None if states is None else states[index]))
            x = new[-1][0]
        return new


class CRN(ActionModel):
    r"""Two recurrent branches that hear each other's hidden maps of the step before.

        Xhat_t = RAB([X_t; RIB(H_{t-1} of the partner)])      H_t, C_t = ConvLSTM layers(Xhat_t, H_{t-1}, C_{t-1})
        Q_t = FC(dropout(GAP(H_t)))

    H that leaves a branch is that of its top layer. ``config.partner`` sets who is heard: "other" is the paper's CRN, "self" its
    N-CRN baseline (own H, through ``config.rib`` and RAB), "off" a plain ConvLSTM whose RAB sees X alone. At the first step
    nothing has been said yet: states are zero, and so is RIB's output (rather than RIB of zero maps, which would hand over its
    biases).

    Source: Sun et al., equations 1-6 and 9, section 5.1. Weights are separate per branch. Coupling at the branch input (not at each
    layer) is our reading. Speed: frames fold into the batch for the backbone; RAB's input half runs once for all steps; zero terms
    of the first step are not computed; the head runs at scored steps alone. None of these changes the sums; held against a literal
    loop by tests/unit/models/test_crn.py.

    Args:
        config: the knobs.
        num_classes: N.

    Shape:
        inputs[m]: (B, T, C, H, W), C = 3 for rgb, 2 * stack for flow, 3 * stack for diff; any H, W.
        returns[m]: (B, S, N).

    Cost (f = R = 512, RGB and 5 stacked flows, N = 101): 92.4 M parameters beside the backbones' 20.6 M, and 88.6 G multiply-adds
    for a 10-step clip at 224.
    """

    def __init__(self, config: CRNConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(config.modalities)
        self.num_steps = config.num_steps
        self.channels = {m: CHANNELS[m] * (1 if m == "rgb" else config.stack) for m in config.modalities}
        self.branches = nn.ModuleDict({m: CRNBranch(config, self.channels[m], num_classes) for m in config.modalities})
        order = self.modalities[::-1] if config.partner == "other" else self.modalities
        self._heard: dict[str, str] = dict(zip(self.modalities, order, strict=True))

    def branch(self, modality: str) -> CRNBranch:
        """The branch of one modality."""
        found = self.branches[modality]
        assert isinstance(found, CRNBranch)
        return found

    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        batch = self.check_inputs(inputs)
        chosen = self.check_steps(steps)
        adapted = {m: self.branch(m).adapt_frames(inputs[m]) for m in self.modalities}
        states: dict[str, list[State]] = {}
        tops: dict[str, list[Tensor]] = {m: [] for m in self.modalities}
        for t in range(chosen[-1] + 1):
            # Both branches read the states of t-1, so the new ones replace them only after both have stepped.
            said = {m: states[m][-1][0] for m in states}
            states = {m: self.branch(m).step(adapted[m][t], said.get(self._heard[m]), states.get(m)) for m in self.modalities}
            if t in chosen:
                for m in self.modalities:
                    tops[m].append(states[m][-1][0])
        outputs: dict[str, Tensor] = {}
        for m in self.modalities:
            # Folding steps into the batch in clip-major order gives (B, S, N) by a view.
            scored = torch.stack(tops[m], dim=1).flatten(0, 1)
            outputs[m] = self.branch(m).head(scored).unflatten(0, (batch, len(chosen)))
        return outputs

    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        """Strategy a: the last; b: all; c, d: the last and one, two others, drawn uniformly without replacement (section 5.1)."""
        last = self.num_steps - 1
        if self.config.strategy == "b":
            return tuple(range(self.num_steps))
        drawn = torch.randperm(last, generator=generator, device=generator.device)[: _DRAWN_STEPS[self.config.strategy]]
        return (*sorted(drawn.tolist()), last)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Backbones (paper: learning rate 1e-3) and everything else (1e-2)."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
        for modality in self.modalities:
            for name, parameter in self.branch(modality).named_parameters():
                groups["backbone" if name.startswith("backbone.") else "head"].append(parameter)
        return groups
