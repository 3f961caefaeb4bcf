"""What a model's speed is compared with: its own FLOP, and what the device reaches on plain matrix products."""

from __future__ import annotations

import dataclasses
import time

import torch

from pipeline.config.train import TrainConfig
from pipeline.models.flops import training_flop
from pipeline.models.precision import autocast

_SIDE = {"cuda": 4096, "cpu": 1024}  # of the matrices: large enough for the device's full rate
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Speed:
    """The two sides of MFU (model FLOP utilisation)."""

    flop_per_clip: float
    """Of a training step, forward and backward."""
    peak_flops: float
    """A second, of one rank's device."""


def measure_speed(config: TrainConfig, num_classes: int, device: torch.device) -> Speed:
    """Count the model's FLOP and measure the device; takes a second or two."""
    flop = training_flop(config.model, num_classes, config.clip.crop)
    return Speed(flop, matrix_rate(device, config.run.precision))


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP a second of products of large matrices in a run's precision: the best of some rounds.

    Measured, because data sheets say nothing about a CPU, and of a GPU what no product reaches.

    Args:
        precision: as of ``RunConfig``.
    """
    side = _SIDE.get(device.type, 1024)
    a = torch.randn(side, side, device=device)
    best_s = float("inf")
    with autocast(precision, device), torch.no_grad():
        for _ in range(_ROUNDS):
            _wait(device)
            start_s = time.perf_counter()
            torch.mm(a, a)
            _wait(device)
            best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * side**3 / best_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
