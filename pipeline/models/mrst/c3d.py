"""The six networks of Wu et al.'s Table 2: C3D's layout with plain 3D convolutions, or with MRST units instead."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model import CHANNELS, MRSTConfig
from pipeline.models.dropout import ClipDropout
from pipeline.models.interface import ClipModel
from pipeline.models.mrst.mutual import Readings
from pipeline.models.mrst.unit import ResidualTube
from pipeline.models.precision import full_precision
from pipeline.models.recompute import recomputed

LAYERS_BEFORE_POOL = (1, 1, 2, 2, 2)
"""C3D: conv1 | conv2 | conv3a, 3b | conv4a, 4b | conv5a, 5b, with a max-pool after each group."""
LAST_SIDE = 4
"""Side of fc6's input maps. 512 * 4 * 4 = 8192 inputs are those of C3D at 112 pixels, and what Table 2's sizes need."""


class PlainLayer(nn.Module):
    """ReLU(BN(3x3x3 convolution)); the convolution has no bias of its own.

    Shape:
        x_FCHW: (B * num_frames, cin, H, W), clip-major; returns (B * num_frames, cout, H, W).
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(cin, cout, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(cout)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_FCHW: Tensor, num_frames: int) -> Tensor:
        return frames(F.relu(self.bn(self.conv(clips(x_FCHW, num_frames))), inplace=True))


def clips(x_FCHW: Tensor, num_frames: int) -> Tensor:
    """Clip-major frames as (B, C, T, H, W): a view; channels-last memory stays channels-last."""
    return x_FCHW.unflatten(0, (-1, num_frames)).transpose(1, 2)


def frames(x_BCTHW: Tensor) -> Tensor:
    """The inverse of ``clips``: (B * T, C, H, W), a view if the memory is channels-last."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def last_pool(x_BCTHW: Tensor) -> Tensor:
    """Max-pool to (B, C, 1, 4, 4): C3D's own padded pool of stride (2, 2, 2) for its 2x7x7 maps, adaptive windows for
    any other size.

    The paper feeds C3D 224 pixels at an unchanged 321 MB; conv5 then has 14x14 maps, and only a pool to 4x4 keeps fc6
    at 8192 inputs.
    """
    if x_BCTHW.shape[2:] == (2, 7, 7):
        return F.max_pool3d(x_BCTHW, 2, padding=(0, 1, 1))
    return F.adaptive_max_pool3d(x_BCTHW, (1, LAST_SIDE, LAST_SIDE))


class C3DNet(ClipModel):
    r"""Eight layers, five max-pools, two fully connected layers, classifier (Tran et al.; Wu et al., section 4.2 and
    Table 2).

    Unit C3D: layers of 3x3x3 convolutions. Other units: 1x1x1 reduction to a quarter of the layer's channels, the tube,
    1x1x1 restoration, without shortcut; a quarter is the reading that gives Table 2's 209 MB for STD. Every convolution
    is followed by BN, as in the paper. pool1 is 1x2x2, pools 2 to 4 are 2x2x2, and ``last_pool`` is the fifth. Held by
    ``tests/unit/pipeline/models/mrst/test_c3d.py`` against ``tests/oracles/mrst_equations.py``.

    Args:
        config: ``layout="c3d"``.
        num_classes: N.
        crop: side of the input in pixels; parameters do not depend on it.

    Shape:
        inputs[m]: (B, T, C, crop, crop), T >= 8, crop >= 16; returns[m]: (B, 1, N).

    Cost (MB of float32 parameters; in brackets as printed): C3D 320.0 with 487 classes (321); with 101 classes STD and
    STF 208.9 (209, 213), MRST-P, -S and -T 210.1 (211). By equations 4-7 STF has no weights of its own; we cannot
    explain its 213.

    Raises:
        ValueError: ``crop`` is below 16.
    """

    def __init__(self, config: MRSTConfig, num_classes: int, crop: int) -> None:
        super().__init__()
        if crop < 16:
            raise ValueError(f"crop: got {crop}, expected at least 16 for four halvings")
        self.config = config
        self.modalities = tuple(config.modalities)
        self.num_steps = config.num_steps
        self.channels = {m: CHANNELS[m] for m in config.modalities}
        self.crop = crop
        self.layers = nn.ModuleList()
        channels = self.channels[self.modalities[0]]
        for out in config.c3d_out:
            if config.unit == "C3D":
                self.layers.append(PlainLayer(channels, out))
            else:
                self.layers.append(
                    ResidualTube(channels, out // 4, out, config.unit, config.pooled_gates, "none", Readings.of(config))
                )
            channels = out
        self.dropout = ClipDropout(config.dropout)
        self.fc6 = nn.Linear(channels * LAST_SIDE**2, config.c3d_fc)
        self.fc7 = nn.Linear(config.c3d_fc, config.c3d_fc)
        self.fc8 = nn.Linear(config.c3d_fc, num_classes)

    def features(self, x_FCHW: Tensor) -> Tensor:
        """The input of fc6, (B, C, 1, 4, 4), from frames (F, C, crop, crop) with F = B * num_steps."""
        x, num_frames, layers = x_FCHW.contiguous(memory_format=torch.channels_last), self.num_steps, iter(self.layers)
        for stage, count in enumerate(LAYERS_BEFORE_POOL):
            for _ in range(count):
                layer = next(layers)
                x = recomputed(layer, layer, x, num_frames) if self.config.recompute else layer(x, num_frames)
            if stage == 0:
                x = F.max_pool2d(x, 2)
            elif stage < len(LAYERS_BEFORE_POOL) - 1:
                x = frames(F.max_pool3d(clips(x, num_frames), 2))
                num_frames //= 2
        return last_pool(clips(x, num_frames))

    def scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor) -> dict[str, Tensor]:
        del steps
        modality = self.modalities[0]
        x = self.features(inputs[modality].flatten(0, 1)).flatten(1)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        with full_precision(x):
            logits = self.fc8(x.to(self.fc8.weight.dtype))
        return {modality: logits.unsqueeze(1)}
