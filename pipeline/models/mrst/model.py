"""MRST-Net (Wu et al.): mutually reinforced spatio-temporal tubes, and an LSTM over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model import CHANNELS, MRSTConfig
from pipeline.models.dropout import ClipDropout
from pipeline.models.interface import ClipModel
from pipeline.models.mrst.mutual import Readings
from pipeline.models.mrst.unit import ResidualTube, Stem
from pipeline.models.precision import full_precision
from pipeline.models.recompute import recomputed


def pooled_side(side: int, num_pools: int) -> int:
    """Side of a map after ``num_pools`` poolings that halve it, rounding up."""
    for _ in range(num_pools):
        side = -(-side // 2)
    return side


class FrameLSTM(nn.Module):
    """One LSTM layer over the frames, from a zero state, with the parameter names and initialisation of
    ``torch.nn.LSTM``.

    ``torch.compile`` cannot trace ``torch.nn.LSTM``; under it the same recurrence runs step by step.

    Shape:
        x_BTC: (B, T, input_size); returns hidden states (B, T, hidden_size).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x_BTC: Tensor) -> Tensor:
        weights: list[Tensor] = [self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0]
        if not torch.compiler.is_compiling():
            zero = x_BTC.new_zeros(1, x_BTC.shape[0], self.hidden_size)
            return torch.lstm(x_BTC, (zero, zero), weights, True, 1, 0.0, self.training, False, True)[0]
        from_input = F.linear(x_BTC, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        hidden = cell = x_BTC.new_zeros(x_BTC.shape[0], self.hidden_size)
        states: list[Tensor] = []
        for step in from_input.unbind(1):
            i, f, g, o = (step + F.linear(hidden, self.weight_hh_l0)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states, dim=1)


class MRSTNet(ClipModel):
    r"""Stem, residual stages of MRST units, LSTM over the frames, mean over time, classifier.

    There is a 1x2x2 max-pool before each stage and after the last. It rounds up (ceil mode), as Table 1's sizes
    7 -> 4 -> 2 require. Every map keeps all T frames: nothing before the LSTM pools or strides over time.

    Source: Wu et al., section 3.2 and Table 1. Maps are (B * T, C, H, W) in channels-last memory, so that a 1x3x3 and a
    3x1x1 convolution are both plain 2D convolutions of the same memory (see ``unit``). The LSTM and the classifier run
    outside autocast (0.4 % of the work). Without LSTM (``config.lstm`` 0, and always unit 2D) the frames' features,
    averaged over time, go to the classifier. Unit 2D is the network to train on still images (num_steps 1) for
    ``inflate.load_2d_weights``.
    ``tests/unit/pipeline/models/mrst/test_model.py`` holds all units against ``tests/oracles/mrst_equations.py``.

    Args:
        config: sizes and unit.
        num_classes: N.
        crop: side of the square input in pixels; it determines the LSTM's input size C * h * w.

    Shape:
        inputs[m]: (B, T, C, crop, crop); returns[m]: (B, 1, N).

    Cost (defaults, 400 classes, 16x224x224): 36.75 M parameters (proj shortcut 36.93 M; without LSTM 24.57 M), 49.5 G
    multiply-adds with gates computed on maps, 43.7 G with pooled gates for units S and T, 38.0 G for unit P. All
    readings: ``python -m jobs.bench models``.
    """

    def __init__(self, config: MRSTConfig, num_classes: int, crop: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(config.modalities)
        self.num_steps = config.num_steps
        self.channels = {m: CHANNELS[m] for m in config.modalities}
        self.crop = crop
        gates: dict[str, Any] = {
            "unit": config.unit,
            "pooled": config.pooled_gates,
            "readings": Readings.of(config),
        }
        frame_channels = self.channels[self.modalities[0]]
        self.stem = Stem(frame_channels, config.stem, downsample=config.stem_downsample, **gates)
        self.stages = nn.ModuleList()
        channels = config.stem
        for blocks, mid, out in zip(config.blocks, config.mid, config.out, strict=True):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(ResidualTube(channels, mid, out, shortcut=config.shortcut, **gates))
                channels = out
            self.stages.append(stage)
        side = pooled_side(crop, 2 + len(config.blocks))  # the stem's stride or pool, one pool a stage, the last pool
        width = channels * side * side
        self.lstm = FrameLSTM(width, config.lstm) if config.unit != "2D" and config.lstm else None
        self.dropout = ClipDropout(config.dropout)
        self.fc = nn.Linear(width if self.lstm is None else config.lstm, num_classes)

    def first_convolutions(self) -> dict[str, list[nn.Module]]:
        """Both of conv1 read the frames; unit 2D has one."""
        temporal = [] if self.stem.temporal is None else [self.stem.temporal]
        return {self.modalities[0]: [self.stem.spatial, *temporal]}

    def features(self, x_FCHW: Tensor) -> Tensor:
        """Maps after the last pool, (F, C, h, w), from frames (F, C, crop, crop) with F = B * num_steps."""
        x = x_FCHW.contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.stem(x, self.num_steps), 2, ceil_mode=True)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for tube in stage:
                x = recomputed(tube, tube, x, self.num_steps) if self.config.recompute else tube(x, self.num_steps)
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x

    def scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor) -> dict[str, Tensor]:
        del steps
        modality = self.modalities[0]
        x = self.features(inputs[modality].flatten(0, 1))
        with full_precision(x):
            hidden_BTC = x.flatten(1).unflatten(0, (-1, self.num_steps)).to(self.fc.weight.dtype)
            if self.lstm is not None:
                hidden_BTC = self.lstm(hidden_BTC)
            logits = self.fc(self.dropout(hidden_BTC.mean(dim=1)))
        return {modality: logits.unsqueeze(1)}
