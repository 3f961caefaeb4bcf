"""The few collective operations, which do nothing in a run of one rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of every rank's tensor, on every rank (in place)."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, on every rank. Small things only: they travel pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_numbers(values: Sequence[float], device: torch.device) -> list[list[float]]:
    """Every rank's numbers (as many on each), in the order of ranks, on every rank; in one message."""
    if world_size() == 1:
        return [list(values)]
    rows = torch.zeros(world_size(), len(values), dtype=torch.float64, device=device)
    rows[dist.get_rank()] = torch.tensor(values, dtype=torch.float64, device=device)
    return sum_over_ranks(rows).tolist()


def average_buffers(model: torch.nn.Module) -> None:
    """Give every rank the mean of all ranks' floating-point buffers (BatchNorm's running statistics), in place."""
    if world_size() == 1:
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.detach().double().flatten() for buffer in buffers])  # one message instead of hundreds
    dist.all_reduce(flat)
    flat /= world_size()
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
