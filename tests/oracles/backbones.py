"""BN-Inception and Inception v3 written from their published tables, by layer name, in evaluation mode: the oracles of
both backbones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3


def bninception(net: BNInception, x: Tensor) -> Tensor:
    """Features of frames whose sides are multiples of 32."""
    state = net.state_dict()

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gamma, beta = (
            state[f"{name}_bn.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / torch.sqrt(var + 1e-5) * gamma + beta, min=0)

    x = F.max_pool2d(unit("conv1_7x7_s2", x, 2), 3, 2, ceil_mode=True)
    x = F.max_pool2d(unit("conv2_3x3", unit("conv2_3x3_reduce", x)), 3, 2, ceil_mode=True)
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        n, stride = f"inception_{block}_", 2 if block in ("3c", "4e") else 1
        three = unit(n + "3x3", unit(n + "3x3_reduce", x), stride)
        double = unit(n + "double_3x3_2", unit(n + "double_3x3_1", unit(n + "double_3x3_reduce", x)), stride)
        if stride == 2:
            x = torch.cat([three, double, F.max_pool2d(x, 3, 2, ceil_mode=True)], 1)
            continue
        # An average pool in which the padding counts as zeros.
        mean_of_nine = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-2, -1))
        pool = F.max_pool2d(x, 3, 1, 1) if block == "5b" else mean_of_nine
        x = torch.cat([unit(n + "1x1", x), three, double, unit(n + "pool_proj", pool)], 1)
    return x


def inception_v3(net: InceptionV3, x: Tensor) -> Tensor:
    """Features of frames of any side that the network accepts."""
    state = net.state_dict()

    def unit(name: str, x: Tensor, stride: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=pad)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / torch.sqrt(var + 1e-3) * gamma + beta, min=0)

    def mean_of_nine(x: Tensor) -> Tensor:
        # An average pool in which the padding counts as zeros.
        return F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-2, -1))

    x = unit("Conv2d_2b_3x3", unit("Conv2d_2a_3x3", unit("Conv2d_1a_3x3", x, 2)), pad=(1, 1))
    x = unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", F.max_pool2d(x, 3, 2)))
    x = F.max_pool2d(x, 3, 2)
    row, column = (0, 3), (3, 0)  # padding of 1x7 and 7x1
    for n in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        five = unit(n + "branch5x5_2", unit(n + "branch5x5_1", x), pad=(2, 2))
        double = unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1))
        double = unit(n + "branch3x3dbl_3", double, pad=(1, 1))
        x = torch.cat([unit(n + "branch1x1", x), five, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    n = "Mixed_6a."
    double = unit(n + "branch3x3dbl_3", unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1)), 2)
    x = torch.cat([unit(n + "branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)
    for n in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        seven = unit(n + "branch7x7_3", unit(n + "branch7x7_2", unit(n + "branch7x7_1", x), pad=row), pad=column)
        double = unit(
            n + "branch7x7dbl_3", unit(n + "branch7x7dbl_2", unit(n + "branch7x7dbl_1", x), pad=column), pad=row
        )
        double = unit(n + "branch7x7dbl_5", unit(n + "branch7x7dbl_4", double, pad=column), pad=row)
        x = torch.cat([unit(n + "branch1x1", x), seven, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    n = "Mixed_7a."
    three = unit(n + "branch3x3_2", unit(n + "branch3x3_1", x), 2)
    seven = unit(n + "branch7x7x3_3", unit(n + "branch7x7x3_2", unit(n + "branch7x7x3_1", x), pad=row), pad=column)
    x = torch.cat([three, unit(n + "branch7x7x3_4", seven, 2), F.max_pool2d(x, 3, 2)], 1)
    for n in ("Mixed_7b.", "Mixed_7c."):
        three = unit(n + "branch3x3_1", x)
        three = torch.cat([unit(n + "branch3x3_2a", three, pad=(0, 1)), unit(n + "branch3x3_2b", three, pad=(1, 0))], 1)
        double = unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1))
        double = torch.cat(
            [unit(n + "branch3x3dbl_3a", double, pad=(0, 1)), unit(n + "branch3x3dbl_3b", double, pad=(1, 0))], 1
        )
        x = torch.cat([unit(n + "branch1x1", x), three, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    return x
