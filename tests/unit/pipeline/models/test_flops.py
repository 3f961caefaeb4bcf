"""FLOP counts against the formulas of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.config.model import MRSTConfig
from pipeline.models.flops import forward_flop, training_flop
from pipeline.models.interface import ActionModel


class Two(ActionModel):
    """A 3x3 convolution of every frame and one linear layer."""

    modalities, num_steps = ("rgb",), 5

    def __init__(self) -> None:
        super().__init__()
        self.channels = {"rgb": 3}
        self.conv, self.linear = nn.Conv2d(3, 7, 3, padding=1), nn.Linear(7, 11)

    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        maps = self.conv(inputs["rgb"].flatten(0, 1))
        return {"rgb": self.linear(maps.mean((2, 3))).unflatten(0, (-1, self.num_steps))}

    scores = forward  # type: ignore[assignment]

    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        return (self.num_steps - 1,)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": [], "head": list(self.parameters())}


def test_a_multiply_add_counts_two() -> None:
    clips, frames, side = 2, 5, 8
    convolution, linear = 2 * 3 * 7 * 3 * 3 * side * side, 2 * 7 * 11
    model = Two()
    assert forward_flop(model, {"rgb": torch.zeros(clips, frames, 3, side, side)}) == clips * frames * (
        convolution + linear
    )


def test_a_training_step_is_three_forward_passes() -> None:
    """MRST-Net with units T: the paper prints 99.6 GFLOP for a forward pass on full maps; pooled gates take less."""
    config = MRSTConfig(unit="T", pooled_gates=False)
    gflop = training_flop(config, 400, 224) / 3 / 1e9
    assert 98 < gflop < 99.6
