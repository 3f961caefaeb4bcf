"""Dropout that does not depend on how a global batch is split over ranks and micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClipDropout(nn.Module):
    """Dropout whose masks belong to the clips of the global batch: a clip drops the same units on any number of ranks.

    Every rank draws the masks of the whole global batch from the default generator, which all of them seed alike at
    each step, and takes the rows of its own clips. Where ``place`` was not called, this is plain dropout.

    Args:
        p: probability with which a unit is dropped, in [0, 1); the others are divided by 1 - p.

    Shape:
        (B * S, ...) with S rows a clip, clip-major; returns the same shape.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self._clips, self._total = p, 0, 0
        self._first = torch.zeros((), dtype=torch.long)  # no buffer: it is no part of a model's state

    def place(self, first: int, clips: int, total: int, device: torch.device) -> None:
        """Say which clips of the global batch come next.

        Args:
            first: place of their first one, in [0, total).
            clips: B, how many they are; fillers at the end, which have no place, count.
            total: clips of the global batch.
            device: of the inputs.
        """
        # A tensor, filled on the device: as a number it would be a constant of a compiled graph, and a new tensor would
        # not be the one that a recorded graph reads.
        if self._first.device != device:
            self._first = torch.zeros((), dtype=torch.long, device=device)
        self._first.fill_(first)
        self._clips, self._total = clips, total

    def forward(self, x: Tensor) -> Tensor:
        if not self._total:
            return nn.functional.dropout(x, self.p, self.training)
        if not self.training or self.p == 0:
            return x
        rows = x.unflatten(0, (self._clips, -1))
        keep = torch.rand(self._total, *rows.shape[1:], device=x.device) >= self.p
        places = torch.arange(self._clips, device=x.device) + self._first
        own = keep.index_select(0, places.clamp(max=self._total - 1))  # whatever a filler drops, its weight is 0
        return (rows * own.to(x.dtype) / (1 - self.p)).flatten(0, 1)


def place_clips(model: nn.Module, first: int, clips: int, total: int, device: torch.device) -> None:
    """``ClipDropout.place`` for all of a model's."""
    for module in model.modules():
        if isinstance(module, ClipDropout):
            module.place(first, clips, total, device)
