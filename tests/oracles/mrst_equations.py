"""MRST's equations as the paper writes them (Wu et al., equations 1-7), and the two layouts built on them, with 3D
convolutions on (B, C, T, H, W) maps and the four matrices on whole maps: the oracle of every unit and both layouts.

Parameters are read from the network under test by name. Batch normalisation uses the batch's statistics in training and
the stored ones in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.model import MRSTConfig
from pipeline.models.mrst.c3d import C3DNet
from pipeline.models.mrst.model import MRSTNet

Weights = dict[str, Tensor]


def weights(model: MRSTNet | C3DNet) -> Weights:
    """Parameters by name; in evaluation also the stored statistics."""
    return {**dict(model.named_parameters()), **({} if model.training else dict(model.named_buffers()))}


def batch_norm(w: Weights, name: str, x_BCTHW: Tensor) -> Tensor:
    """Batch normalisation: stored statistics if there are any, else the batch's with the biased variance; epsilon
    1e-5.
    """
    if f"{name}.running_mean" in w:
        mean, var = (w[f"{name}.running_{k}"].view(1, -1, 1, 1, 1) for k in ("mean", "var"))
    else:
        mean = x_BCTHW.mean((0, 2, 3, 4), keepdim=True)
        var = x_BCTHW.var((0, 2, 3, 4), unbiased=False, keepdim=True)
    scale, shift = (w[f"{name}.{k}"].view(1, -1, 1, 1, 1) for k in ("weight", "bias"))
    return (x_BCTHW - mean) / torch.sqrt(var + 1e-5) * scale + shift


def conv(w: Weights, name: str, x_BCTHW: Tensor, **options: Any) -> Tensor:
    """One 3D convolution. The network stores kernels as (out, in, 3, 1) in time and (out, in, k, k) in space."""
    weight = w[f"{name}.weight"]
    weight = weight[..., None] if name.endswith("temporal") else weight[:, :, None]
    return F.conv3d(x_BCTHW, weight, **options)


def product(w: Weights, config: MRSTConfig, name: str, x_BCTHW: Tensor) -> Tensor:
    """One of the four matrices, a 1x1x1 convolution, with the bias or the BN that it has in some readings."""
    out = torch.einsum("oc,bcthw->bothw", w[name], x_BCTHW)
    if config.gate_bias:
        out = out + w[f"{name}_bias"].view(1, -1, 1, 1, 1)
    return batch_norm(w, f"{name}_bn", out) if config.gate_bn else out


def reinforced(w: Weights, config: MRSTConfig, name: str, s: Tensor, t: Tensor) -> list[Tensor]:
    """S~ and T~ of equations 1 (unit P), 2 (S) and 3 (T)."""

    def times(matrix: str, x: Tensor) -> Tensor:
        return product(w, config, f"{name}.{matrix}", x)

    if config.unit == "P":
        return [times("ss", s) + times("ts", t), times("st", s) + times("tt", t)]
    if config.unit == "S":
        t_new = times("st", s) + times("tt", t)
        return [times("ss", s) + times("ts", F.relu(t_new)), t_new]
    s_new = times("ss", s) + times("ts", t)
    return [s_new, times("st", F.relu(s_new)) + times("tt", t)]


def tube(
    w: Weights, config: MRSTConfig, name: str, spatial: Tensor, temporal: Tensor | None, halved: bool = False
) -> Tensor:
    """X* of equations 4-7 from the outputs of the two convolutions; S + T for unit STD, S alone for unit 2D."""

    def activated(bn: str, x: Tensor) -> Tensor:
        x = batch_norm(w, f"{name}.tube.{bn}", x)
        x = F.relu(x) if config.st_relu else x
        return F.max_pool3d(x, (1, 2, 2), ceil_mode=True) if halved else x

    s = activated("spatial_bn", spatial)
    if temporal is None:
        return s
    t = activated("temporal_bn", temporal)
    if config.unit == "STD":
        return s + t
    maps = [s, t] if config.unit == "STF" else reinforced(w, config, f"{name}.tube.gates", s, t)
    gate_s, gate_t = (x.mean((2, 3, 4), keepdim=True).sigmoid() for x in maps)
    return gate_s * s + gate_t * t


def bottleneck(w: Weights, config: MRSTConfig, name: str, x: Tensor) -> Tensor:
    """BN(restore(tube(ReLU(BN(reduce(x)))))): an MRST unit before the shortcut and the last ReLU."""
    y = F.relu(batch_norm(w, f"{name}.reduce_bn", conv(w, f"{name}.reduce", x)))
    temporal = None if config.unit == "2D" else conv(w, f"{name}.temporal", y, padding=(1, 0, 0))
    fused = tube(w, config, name, conv(w, f"{name}.spatial", y, padding=(0, 1, 1)), temporal)
    return batch_norm(w, f"{name}.restore_bn", conv(w, f"{name}.restore", fused))


def mrst_net(model: MRSTNet, clip_BTCHW: Tensor) -> Tensor:
    """Table 1: (B, N) scores of clips. The LSTM runs frame by frame; its outputs are averaged over time."""
    config, w = model.config, weights(model)
    x = clip_BTCHW.transpose(1, 2)
    pool = config.stem_downsample == "pool"
    stride = (1, 1, 1) if pool else (1, 2, 2)
    temporal = None if config.unit == "2D" else conv(w, "stem.temporal", x, stride=stride, padding=(1, 0, 0))
    x = tube(w, config, "stem", conv(w, "stem.spatial", x, stride=stride, padding=(0, 3, 3)), temporal, halved=pool)
    for stage, (blocks, out) in enumerate(zip(config.blocks, config.out, strict=True)):
        x = F.max_pool3d(x, (1, 2, 2), (1, 2, 2), ceil_mode=True)
        for index in range(blocks):
            name = f"stages.{stage}.{index}"
            x = F.relu(_shortcut(w, name, config.shortcut, x, out) + bottleneck(w, config, name, x))
    x = F.max_pool3d(x, (1, 2, 2), (1, 2, 2), ceil_mode=True).transpose(1, 2).flatten(2)
    if config.unit == "2D" or config.lstm == 0:
        return F.linear(x.mean(1), w["fc.weight"], w["fc.bias"])
    h = c = torch.zeros(x.shape[0], config.lstm, dtype=x.dtype)
    total = torch.zeros_like(h)
    for t in range(x.shape[1]):
        gates = F.linear(x[:, t], w["lstm.weight_ih_l0"], w["lstm.bias_ih_l0"])
        gates = gates + F.linear(h, w["lstm.weight_hh_l0"], w["lstm.bias_hh_l0"])
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        total = total + h
    return F.linear(total / x.shape[1], w["fc.weight"], w["fc.bias"])


def _shortcut(w: Weights, name: str, kind: str, x: Tensor, out: int) -> Tensor:
    if x.shape[1] == out:
        return x
    if kind == "proj":
        return batch_norm(w, f"{name}.project.1", conv(w, f"{name}.project.0", x))
    return torch.cat([x, x.new_zeros(x.shape[0], out - x.shape[1], *x.shape[2:])], 1)


def c3d_net(model: C3DNet, clip_BTCHW: Tensor) -> Tensor:
    """C3D's layout (Tran et al., figure 3): (B, N) scores, a plain 3x3x3 convolution or a unit in each layer."""
    config, w = model.config, weights(model)
    x = clip_BTCHW.transpose(1, 2)
    for index in range(8):
        name = f"layers.{index}"
        if config.unit == "C3D":
            y = batch_norm(w, f"{name}.bn", F.conv3d(x, w[f"{name}.conv.weight"], padding=1))
        else:
            y = bottleneck(w, config, name, x)
        x = F.relu(y)
        if index == 0:
            x = F.max_pool3d(x, (1, 2, 2))
        elif index in (1, 3, 5):
            x = F.max_pool3d(x, 2)
    x = pool_to_4x4(x).flatten(1)
    for name in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


def pool_to_4x4(x_BCTHW: Tensor) -> Tensor:
    """(B, C, 4, 4): largest value of rows floor(i n / 4) up to ceil((i + 1) n / 4), likewise columns, all frames."""
    n = x_BCTHW.shape[-1]
    bounds = [(i * n // 4, -(-(i + 1) * n // 4)) for i in range(4)]
    rows = [torch.stack([x_BCTHW[..., a:b, c:d].amax((2, 3, 4)) for c, d in bounds], -1) for a, b in bounds]
    return torch.stack(rows, -2)


def reinforced_means(a_BPC: Tensor, b_BPC: Tensor, aa: Tensor, ba: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means over positions of ReLU(Waa a + Wba b), a and b, each (B, C), and where the sum is positive (B, P, C)."""
    mixed = torch.einsum("oc,bpc->bpo", aa, a_BPC) + torch.einsum("oc,bpc->bpo", ba, b_BPC)
    return (mixed * (mixed > 0)).mean(1), a_BPC.mean(1), b_BPC.mean(1), mixed > 0


def gated_sum(s_BPC: Tensor, t_BPC: Tensor, gate_s_BC: Tensor, gate_t_BC: Tensor) -> Tensor:
    """Equations 6 and 7."""
    return gate_s_BC[:, None] * s_BPC + gate_t_BC[:, None] * t_BPC


C3D_CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)


def count_c3d(unit: str, num_classes: int, channels: Sequence[int] = C3D_CHANNELS) -> int:
    """Parameters of the C3D layout: convolutions, BN (weight and bias) after each, and fully connected layers on
    512 x 4 x 4 maps.
    """
    total, cin = 0, 3
    for out in channels:
        m = out // 4
        if unit == "C3D":
            total += 27 * cin * out + 2 * out
        else:
            total += cin * m + 9 * m * m + 3 * m * m + m * out + 2 * (3 * m + out)
            total += 4 * m * m if unit in "PST" else 0
        cin = out
    return total + (8192 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * num_classes


def count_2d_twin(num_classes: int) -> int:
    """Parameters of Table 1's network without temporal convolutions, matrices and LSTM (unit 2D): 2048 features at
    224 pixels.
    """
    stages = zip(
        (64, 128, 256, 512, 512), (3, 4, 12, 11, 3), (64, 64, 128, 256, 256), (128, 256, 512, 512, 512), strict=True
    )
    total = 3 * 64 * 49 + 2 * 64 + 2048 * num_classes + num_classes
    for cin, blocks, m, out in stages:
        total += sum(m * (c + out) + 9 * m * m + 4 * m + 2 * out for c in (cin, *[out] * (blocks - 1)))
    return total
