"""BN-Inception feature extractor (Ioffe and Szegedy, 2015) with the layer names of the public Caffe port."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.norm_relu import norm_relu
from pipeline.models.recompute import recomputed


class Block(NamedTuple):
    """Channels of one inception block at width 1. ``one`` = 0: a stride-2 block, without 1x1 branch and projection."""

    name: str
    one: int  # 1x1 branch
    reduce: int  # 1x1 before the 3x3
    three: int  # 3x3 branch
    double_reduce: int  # 1x1 before the two 3x3
    double: int  # both convolutions of the double 3x3 branch
    pool: str  # of the pool branch: avg or max
    proj: int  # 1x1 after the pool; 0: none


BLOCKS: tuple[Block, ...] = (
    Block("3a", 64, 64, 64, 64, 96, "avg", 32),
    Block("3b", 64, 64, 96, 64, 96, "avg", 64),
    Block("3c", 0, 128, 160, 64, 96, "max", 0),
    Block("4a", 224, 64, 96, 96, 128, "avg", 128),
    Block("4b", 192, 96, 128, 96, 128, "avg", 128),
    Block("4c", 160, 128, 160, 128, 160, "avg", 128),
    Block("4d", 96, 128, 192, 160, 192, "avg", 128),
    Block("4e", 0, 128, 192, 192, 256, "max", 0),
    Block("5a", 352, 192, 320, 160, 224, "avg", 128),
    Block("5b", 352, 192, 320, 192, 224, "max", 128),
)
_LAST_BLOCK = {3: "3c", 4: "4e", 5: "5b"}


def scaled(channels: int, width: float) -> int:
    """``channels * width`` rounded up to a multiple of 8; at width 1 unchanged, as all counts are multiples of 8."""
    return 8 * math.ceil(channels * width / 8 - 1e-9)


def mean_and_projection(layer: nn.Module, x_FCHW: Tensor) -> Tensor:
    """The mean of 3x3 pixels (zeros beyond the border), then a 1x1 convolution; on a GPU the other way round."""
    if x_FCHW.is_cuda:
        return projection_and_mean(layer, x_FCHW)
    return layer(F.avg_pool2d(x_FCHW, 3, stride=1, padding=1))


def projection_and_mean(layer: nn.Module, x_FCHW: Tensor) -> Tensor:
    """The same but for rounding, from 4 to 8 times fewer channels to take the mean of. The bias, which the border's
    zeros do not have, comes last.
    """
    assert isinstance(layer, nn.Conv2d)
    pooled = F.avg_pool2d(F.conv2d(x_FCHW, layer.weight), 3, stride=1, padding=1)
    return pooled if layer.bias is None else pooled + layer.bias.to(pooled.dtype)[:, None, None]


class BNInception(nn.Module):
    """BN-Inception up to inception 3c, 4e or 5b: a frame in, a feature map out.

    Every convolution has a bias *and* batch normalisation, as in the public port, whose weights therefore load by name
    (``public_weights.load_backbone``). Two things differ from that port. BN momentum is 0.1: its 0.9 follows Caffe's
    convention and in torch would make the running statistics follow the last batch only. The pool branch of the
    stride-2 blocks is padded if a side is odd: without that, the branches of a block would differ in size for crops
    such as 112. For sides that are multiples of 32, such as 224, nothing changes. Held by
    ``tests/unit/pipeline/models/backbones/test_bninception.py`` against ``tests/oracles/backbones.py``.

    Args:
        in_channels: of one frame: 3 for RGB, 2 * stack for flow, 3 * stack for differences.
        width: multiplier of all channel counts, rounded up to multiples of 8.
        stages: 3, 4 or 5: stop after inception 3c, 4e or 5b.

    Attributes:
        out_channels: Cx of the feature map; 576, 1056 or 1024 at width 1.
        min_side: smallest possible side of the input, in pixels.

    Shape:
        x_FCHW: (F, in_channels, H, W), floating point, H, W >= 7 (config allows crops from 16).
        returns: (F, out_channels, h, w); 7x7 for 224x224 with 4 or 5 stages, 14x14 with 3.

    Cost: 10.27 M parameters and 2.03 G multiply-adds for a 3x224x224 frame at width 1 and 5 stages.

    Raises:
        ValueError: ``stages`` is not 3, 4 or 5.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0, stages: int = 5) -> None:
        super().__init__()
        if stages not in _LAST_BLOCK:
            raise ValueError(f"stages: got {stages}, expected 3, 4 or 5")
        first, second = scaled(64, width), scaled(192, width)
        self._add("conv1_7x7_s2", in_channels, first, 7, stride=2)
        self._add("conv2_3x3_reduce", first, first, 1)
        self._add("conv2_3x3", first, second, 3)
        channels = second
        self._blocks: list[Block] = []
        for block in BLOCKS:
            channels = self._add_block(block, channels, width)
            self._blocks.append(block)
            if block.name == _LAST_BLOCK[stages]:
                break
        self.in_channels = in_channels
        self.out_channels = channels
        self.min_side = 7
        self.recompute = False  # activation checkpointing, block by block
        self.reset_parameters()

    def _add(self, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> int:
        self.add_module(name, nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(cout, momentum=0.1))
        return cout

    def _add_block(self, block: Block, cin: int, width: float) -> int:
        name, stride = f"inception_{block.name}", 1 if block.one else 2
        one, reduce, three, double_reduce, double, proj = (
            scaled(c, width)
            for c in (block.one, block.reduce, block.three, block.double_reduce, block.double, block.proj)
        )
        if one:
            self._add(f"{name}_1x1", cin, one, 1)
        self._add(f"{name}_3x3_reduce", cin, reduce, 1)
        self._add(f"{name}_3x3", reduce, three, 3, stride)
        self._add(f"{name}_double_3x3_reduce", cin, double_reduce, 1)
        self._add(f"{name}_double_3x3_1", double_reduce, double, 3)
        self._add(f"{name}_double_3x3_2", double, double, 3, stride)
        if proj:
            self._add(f"{name}_pool_proj", cin, proj, 1)
        return one + three + double + (proj or cin)

    def reset_parameters(self) -> None:
        """He initialisation for ReLU, zero biases: our choice for training from scratch."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def _unit(self, name: str, x_FCHW: Tensor) -> Tensor:
        convolved = self.get_submodule(name)(x_FCHW)
        return norm_relu(self.get_submodule(f"{name}_bn"), convolved)

    def _block(self, block: Block, x_FCHW: Tensor) -> Tensor:
        name = f"inception_{block.name}"
        outputs = [self._unit(f"{name}_1x1", x_FCHW)] if block.one else []
        outputs.append(self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x_FCHW)))
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", x_FCHW))
        outputs.append(self._unit(f"{name}_double_3x3_2", double))
        if not block.one:
            # A 3x3 convolution of stride 2 and padding 1 gives ceil(n / 2); an unpadded ceil-mode pool does so only for
            # even n.
            pooled = F.max_pool2d(
                x_FCHW, 3, stride=2, padding=(x_FCHW.shape[2] % 2, x_FCHW.shape[3] % 2), ceil_mode=True
            )
        elif block.pool == "max":
            pooled = F.max_pool2d(x_FCHW, 3, stride=1, padding=1)
        else:
            projected = mean_and_projection(self.get_submodule(f"{name}_pool_proj"), x_FCHW)
            return torch.cat([*outputs, norm_relu(self.get_submodule(f"{name}_pool_proj_bn"), projected)], dim=1)
        outputs.append(self._unit(f"{name}_pool_proj", pooled) if block.proj else pooled)
        return torch.cat(outputs, dim=1)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        x = self._unit("conv1_7x7_s2", x_FCHW)
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        x = self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        for block in self._blocks:
            x = recomputed(self, self._block, block, x) if self.recompute else self._block(block, x)
        return x
