"""The MRST unit (Wu et al., equations 1-7): decomposition, mutual reinforcement, fusion.

Maps are (F, C, H, W) with F = B * T frames, clip-major, in channels-last memory. The same memory can be viewed as
(B, C, T, H * W), so a 1x3x3 convolution is a 3x3 convolution of the first view and a 3x1x1 convolution a (3, 1)
convolution of the second, without a copy in between. Other memory layouts give the same result, at the cost of copies.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.mrst.gate import gated_sum
from pipeline.models.mrst.mutual import DEFAULT, GATED, MutualGates, Readings, positions
from pipeline.models.norm_relu import norm_relu

UNITS = (*GATED, "STD", "2D")


class TemporalConv(nn.Conv2d):
    """3x1x1 convolution over the frames of each clip, zero-padded in time, without bias.

    Shape:
        x_FCHW: (B * num_frames, cin, H, W); returns (B * num_frames, cout, H, W).
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(cin, cout, (3, 1), padding=(1, 0), bias=False)

    def forward(self, x_FCHW: Tensor, num_frames: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, channels, height, width = x_FCHW.shape
        in_time = x_FCHW.permute(0, 2, 3, 1).reshape(-1, num_frames, height * width, channels).permute(0, 3, 1, 2)
        out = super().forward(in_time)
        return out.permute(0, 2, 3, 1).reshape(-1, height, width, out.shape[1]).permute(0, 3, 1, 2)


class Tube(nn.Module):
    r"""Fusion of a spatial and a temporal convolution.

        S = ReLU(BN(spatial convolution)), T = ReLU(BN(temporal convolution)), both of the same input
        P, S, T, STF:  X* = gS . S + gT . T          (equations 6, 7)
        STD:           X* = S + T                    (plain decomposition)
        2D:            X* = S                        (no temporal part: the twin for still images)

    Without ``st_relu``, S and T are the outputs of BN: the paper says that its blocks have "Batch Normalization (BN)
    and Rectified Linear Units (ReLU)" (section 3.2), not behind which convolutions.

    Args:
        channels: C of both.
        unit, pooled, readings: see ``MutualGates``.
        halved: S and T pass a 1x2x2 max-pool that rounds up before they are reinforced.

    Shape:
        spatial_FCHW, temporal_FCHW: (B * num_frames, C, H, W); returns the same shape, or (B * num_frames, C,
            ceil(H / 2), ceil(W / 2)) if ``halved``.

    Raises:
        ValueError: another unit.
    """

    def __init__(
        self, channels: int, unit: str, pooled: bool, readings: Readings = DEFAULT, halved: bool = False
    ) -> None:
        super().__init__()
        if unit not in UNITS:
            raise ValueError(f"unit: got {unit!r}, expected one of {', '.join(UNITS)}")
        self.pooled, self.relu, self.halved = pooled, readings.st_relu, halved
        self.spatial_bn = nn.BatchNorm2d(channels)
        self.temporal_bn = nn.BatchNorm2d(channels) if unit != "2D" else None
        self.gates = MutualGates(channels, unit, pooled, readings) if unit in GATED else None

    def _activated(self, norm: nn.Module, x_FCHW: Tensor) -> Tensor:
        """S or T from the output of its convolution."""
        x_FCHW = norm_relu(norm, x_FCHW) if self.relu else norm(x_FCHW)
        return F.max_pool2d(x_FCHW, 2, ceil_mode=True) if self.halved else x_FCHW

    def forward(self, spatial_FCHW: Tensor, temporal_FCHW: Tensor | None, num_frames: int) -> Tensor:
        """X* from the outputs of the convolutions; ``temporal_FCHW`` is None only in unit 2D."""
        s = self._activated(self.spatial_bn, spatial_FCHW)
        if self.temporal_bn is None or temporal_FCHW is None:
            return s
        t = self._activated(self.temporal_bn, temporal_FCHW)
        if self.gates is None:
            return s + t
        gates = self.gates(s, t, num_frames)
        if self.pooled:
            fused_BPC = gated_sum(positions(s, num_frames), positions(t, num_frames), *gates)
            return fused_BPC.view(s.shape[0], *s.shape[2:], s.shape[1]).permute(0, 3, 1, 2)
        gate_s, gate_t = (g.to(s.dtype).repeat_interleave(num_frames, dim=0)[:, :, None, None] for g in gates)
        return torch.addcmul(gate_s * s, gate_t, t)


class Stem(nn.Module):
    """conv1 of Table 1: an MRST unit without reduction, whose 1x7x7 and 3x1x1 convolutions read the frames.

    Table 1 gives its output half the side of the frames and no stride. ``stride``: both convolutions have stride
    (1, 2, 2); this fits the printed FLOPs. ``pool``: both have stride 1, and S and T pass a 1x2x2 max-pool before they
    are reinforced ("The Max-Pooling layers after the first layer of each convolutional block are omitted for
    simplification", below Table 1; Wu et al.). The pool is behind BN and ReLU, which belong to the convolution. The
    max-pool in front of conv2 is there either way: its output has a quarter of the side.

    Args:
        cin, channels: channels of a frame, and of the output.
        unit, pooled, readings: see ``MutualGates``.
        downsample: stride or pool.

    Shape:
        x_FCHW: (B * num_frames, cin, H, W); returns (B * num_frames, channels, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(
        self,
        cin: int,
        channels: int,
        unit: str,
        pooled: bool,
        readings: Readings = DEFAULT,
        downsample: Literal["stride", "pool"] = "stride",
    ) -> None:
        super().__init__()
        self.stride = 2 if downsample == "stride" else 1
        self.spatial = nn.Conv2d(cin, channels, 7, stride=self.stride, padding=3, bias=False)
        self.temporal = TemporalConv(cin, channels) if unit != "2D" else None
        self.tube = Tube(channels, unit, pooled, readings, halved=downsample == "pool")
        _init_convs(self)

    def forward(self, x_FCHW: Tensor, num_frames: int) -> Tensor:
        # A kernel of one pixel with stride 2 reads every second pixel.
        seen = x_FCHW[:, :, :: self.stride, :: self.stride]
        temporal = None if self.temporal is None else self.temporal(seen, num_frames)
        return self.tube(self.spatial(x_FCHW), temporal, num_frames)


class ResidualTube(nn.Module):
    r"""MRST unit with its two 1x1x1 convolutions and shortcut: out = ReLU(shortcut(x) + BN(We X*)), y = ReLU(BN(Wr x)).

    Source: Wu et al., Table 1 and section 3.2. The shortcut is x; where the number of channels grows, it is x padded
    with zero maps (``pad``, no weights: closest to the paper's FLOPs) or a 1x1x1 convolution with BN (``proj``).
    ``none`` omits it: out = ReLU(BN(We X*)), a layer of the C3D layout.

    Args:
        cin, mid, out: input channels, channels of the tube (m), output channels.
        unit, pooled, readings: see ``MutualGates``.
        shortcut: pad, proj or none.

    Shape:
        x_FCHW: (B * num_frames, cin, H, W); returns (B * num_frames, out, H, W).

    Cost: 16 m^2 + m (cin + out) parameters in convolutions and matrices, without BN; units without the four matrices
    (STD, STF) have 12 m^2 instead of 16 m^2.

    Raises:
        ValueError: ``pad`` with fewer channels out than in.
    """

    def __init__(
        self,
        cin: int,
        mid: int,
        out: int,
        unit: str,
        pooled: bool,
        shortcut: str = "pad",
        readings: Readings = DEFAULT,
    ) -> None:
        super().__init__()
        if shortcut == "pad" and out < cin:
            raise ValueError(
                f"shortcut: got pad from {cin} to {out} channels, expected proj for fewer channels out than in"
            )
        self.reduce = nn.Conv2d(cin, mid, 1, bias=False)
        self.reduce_bn = nn.BatchNorm2d(mid)
        self.spatial = nn.Conv2d(mid, mid, 3, padding=1, bias=False)
        self.temporal = TemporalConv(mid, mid) if unit != "2D" else None
        self.tube = Tube(mid, unit, pooled, readings)
        self.restore = nn.Conv2d(mid, out, 1, bias=False)
        self.restore_bn = nn.BatchNorm2d(out)
        self.skip = shortcut != "none"
        self.extra = out - cin
        self.project: nn.Sequential | None = None
        if self.extra and shortcut == "proj":
            self.project = nn.Sequential(nn.Conv2d(cin, out, 1, bias=False), nn.BatchNorm2d(out))
        _init_convs(self)

    def forward(self, x_FCHW: Tensor, num_frames: int) -> Tensor:
        y = norm_relu(self.reduce_bn, self.reduce(x_FCHW))
        temporal = None if self.temporal is None else self.temporal(y, num_frames)
        fused = self.tube(self.spatial(y), temporal, num_frames)
        if not self.skip:
            return norm_relu(self.restore_bn, self.restore(fused))
        shortcut = x_FCHW
        if self.project is not None:
            shortcut = self.project(x_FCHW)
        elif self.extra:
            shortcut = F.pad(x_FCHW, (0, 0, 0, 0, 0, self.extra))
        return F.relu(self.restore_bn(self.restore(fused)) + shortcut, inplace=True)


def _init_convs(module: nn.Module) -> None:
    """He initialisation (fan out) of every convolution: our choice, as usual for residual networks."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
