"""Inception v3 feature extractor (Szegedy et al., 2016) with the layer names of torchvision's checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.backbones.bninception import mean_and_projection, scaled
from pipeline.models.norm_relu import norm_relu
from pipeline.models.recompute import recomputed

# Smallest input sides that leave at least one cell after every stride-2 layer, none of which pads.
MIN_SIDE = {3: 27, 4: 43, 5: 75}


class Conv(NamedTuple):
    """One convolution at width 1. Stride 1 keeps the size of the map; stride 2 does not pad."""

    name: str
    out: int
    kernel: tuple[int, int]
    stride: int = 1


class Block(NamedTuple):
    """An inception block: chains of convolutions and a pool branch, concatenated in this order. A tuple at the end of
    a chain is two convolutions of the same input.
    """

    chains: tuple[tuple[Conv | tuple[Conv, Conv], ...], ...]
    proj: int  # 1x1 after a 3x3 average pool of stride 1; 0: only a 3x3 max pool of stride 2


_ONE, _THREE, _FIVE = (1, 1), (3, 3), (5, 5)


def _a(proj: int) -> Block:
    return Block(
        (
            (Conv("branch1x1", 64, _ONE),),
            (Conv("branch5x5_1", 48, _ONE), Conv("branch5x5_2", 64, _FIVE)),
            (Conv("branch3x3dbl_1", 64, _ONE), Conv("branch3x3dbl_2", 96, _THREE), Conv("branch3x3dbl_3", 96, _THREE)),
        ),
        proj,
    )


def _c(inner: int) -> Block:
    row, column = (1, 7), (7, 1)
    return Block(
        (
            (Conv("branch1x1", 192, _ONE),),
            (Conv("branch7x7_1", inner, _ONE), Conv("branch7x7_2", inner, row), Conv("branch7x7_3", 192, column)),
            (
                Conv("branch7x7dbl_1", inner, _ONE),
                Conv("branch7x7dbl_2", inner, column),
                Conv("branch7x7dbl_3", inner, row),
                Conv("branch7x7dbl_4", inner, column),
                Conv("branch7x7dbl_5", 192, row),
            ),
        ),
        192,
    )


_B = Block(
    (
        (Conv("branch3x3", 384, _THREE, 2),),
        (Conv("branch3x3dbl_1", 64, _ONE), Conv("branch3x3dbl_2", 96, _THREE), Conv("branch3x3dbl_3", 96, _THREE, 2)),
    ),
    0,
)
_D = Block(
    (
        (Conv("branch3x3_1", 192, _ONE), Conv("branch3x3_2", 320, _THREE, 2)),
        (
            Conv("branch7x7x3_1", 192, _ONE),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, _THREE, 2),
        ),
    ),
    0,
)
_E = Block(
    (
        (Conv("branch1x1", 320, _ONE),),
        (Conv("branch3x3_1", 384, _ONE), (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))),
        (
            Conv("branch3x3dbl_1", 448, _ONE),
            Conv("branch3x3dbl_2", 384, _THREE),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
    ),
    192,
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _E,
    "Mixed_7c": _E,
}
_LAST_BLOCK = {3: "Mixed_5d", 4: "Mixed_6e", 5: "Mixed_7c"}


class ConvNormReLU(nn.Module):
    """ReLU(BN(conv x)), the convolution without bias; BN with epsilon 1e-3, as for the public weights, and momentum
    0.1.
    """

    def __init__(self, cin: int, cout: int, kernel: tuple[int, int], stride: int = 1, *, padded: bool) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(cin, cout, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_FCHW: Tensor) -> Tensor:
        return norm_relu(self.bn, self.conv(x_FCHW))

    def of_mean(self, x_FCHW: Tensor) -> Tensor:
        """Of the mean of 3x3 pixels, by a 1x1 convolution."""
        return norm_relu(self.bn, mean_and_projection(self.conv, x_FCHW))


class InceptionBlock(nn.Module):
    """One of the blocks A-E of the paper, built from its ``Block``."""

    def __init__(self, cin: int, block: Block, width: float) -> None:
        super().__init__()
        self._chains: list[
            list[list[str]]
        ] = []  # names of layers: chain, link, and the one or two convolutions of a link
        self.out_channels = 0
        for chain in block.chains:
            channels, names = cin, []
            for link in chain:
                tips = (link,) if isinstance(link, Conv) else link
                channels = sum(self._add(conv, channels, width) for conv in tips)
                names.append([conv.name for conv in tips])
            self._chains.append(names)
            self.out_channels += channels
        self._projects = block.proj > 0
        self.out_channels += self._add(Conv("branch_pool", block.proj, _ONE), cin, width) if self._projects else cin

    def _add(self, conv: Conv, cin: int, width: float) -> int:
        cout = scaled(conv.out, width)
        self.add_module(conv.name, ConvNormReLU(cin, cout, conv.kernel, conv.stride, padded=conv.stride == 1))
        return cout

    def forward(self, x_FCHW: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for chain in self._chains:
            tips = [x_FCHW]
            for names in chain:
                tips = [self.get_submodule(name)(tips[0]) for name in names]
            outputs += tips
        if self._projects:
            projection = self.get_submodule("branch_pool")
            assert isinstance(projection, ConvNormReLU)
            outputs.append(projection.of_mean(x_FCHW))
        else:
            outputs.append(F.max_pool2d(x_FCHW, 3, stride=2))
        return torch.cat(outputs, dim=1)


class InceptionV3(nn.Module):
    """Inception v3 up to Mixed 5d, 6e or 7c: a frame in, a feature map out. No classifier, no auxiliary head.

    Names, shapes and epsilon are those of torchvision's public checkpoint, which was trained on pixels in -1..1
    (``clip.norm inception``); torchvision's ``transform_input`` is therefore not needed. Held by
    ``tests/unit/pipeline/models/backbones/test_inception_v3.py`` against ``tests/oracles/backbones.py``.

    Args:
        in_channels: of one frame: 3 for RGB, 2 * stack for flow, 3 * stack for differences.
        width: multiplier of all channel counts, rounded up to multiples of 8.
        stages: 3, 4 or 5: stop after Mixed 5d, 6e or 7c, at strides 8, 16 and 32.

    Attributes:
        out_channels: Cx of the feature map; 288, 768 or 2048 at width 1.
        min_side: smallest possible side of the input, in pixels; the stride-2 layers do not pad.

    Shape:
        x_FCHW: (F, in_channels, H, W), floating point, H, W >= ``min_side`` (27, 43 or 75).
        returns: (F, out_channels, h, w); with 5 stages 8x8 for 299x299, 5x5 for 224x224.

    Cost: 21.79 M parameters and 5.71 G multiply-adds for a 3x299x299 frame at width 1 and 5 stages; 2.84 G at 224.

    Raises:
        ValueError: ``stages`` is not 3, 4 or 5.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0, stages: int = 5) -> None:
        super().__init__()
        if stages not in _LAST_BLOCK:
            raise ValueError(f"stages: got {stages}, expected 3, 4 or 5")
        channels = in_channels
        stem = (
            (Conv("Conv2d_1a_3x3", 32, _THREE, 2), False),
            (Conv("Conv2d_2a_3x3", 32, _THREE), False),
            (Conv("Conv2d_2b_3x3", 64, _THREE), True),
            (Conv("Conv2d_3b_1x1", 80, _ONE), False),
            (Conv("Conv2d_4a_3x3", 192, _THREE), False),
        )
        for conv, padded in stem:
            cout = scaled(conv.out, width)
            self.add_module(conv.name, ConvNormReLU(channels, cout, conv.kernel, conv.stride, padded=padded))
            channels = cout
        self._blocks: list[str] = []
        for name, block in BLOCKS.items():
            mixed = InceptionBlock(channels, block, width)
            self.add_module(name, mixed)
            channels = mixed.out_channels
            self._blocks.append(name)
            if name == _LAST_BLOCK[stages]:
                break
        self.in_channels = in_channels
        self.out_channels = channels
        self.min_side = MIN_SIDE[stages]
        self.recompute = False  # activation checkpointing, block by block

    def forward(self, x_FCHW: Tensor) -> Tensor:
        x = x_FCHW
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = self.get_submodule(name)(x)
        x = F.max_pool2d(x, 3, stride=2)
        for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3"):
            x = self.get_submodule(name)(x)
        x = F.max_pool2d(x, 3, stride=2)
        for name in self._blocks:
            block = self.get_submodule(name)
            x = recomputed(block, block, x) if self.recompute else block(x)
        return x
