"""The few collective operations, which do nothing in a run of one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pipeline.models.batchnorm import synchronise_batchnorm

T = TypeVar("T")
_PIECE_BYTES = 64 << 20  # of a file that is shared, in the memory of every rank


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of every rank's tensor, on every rank (in place)."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest_over_ranks(value: int, device: torch.device) -> int:
    """The largest of every rank's small number, on every rank."""
    number = torch.tensor(value, device=device)
    if world_size() > 1:
        dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number.item())


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


def decided_by_rank_0(decide: Callable[[], T], rank: int) -> T:
    """What rank 0's call returns, on every rank; its error is raised on every rank. Small picklable things only."""
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = decide()
        except Exception as error:
            if world_size() == 1:
                raise
            answer[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def share_files(folder: Path, rank: int, device: torch.device) -> None:
    """Copy the files of rank 0's folder into every other rank's."""
    if world_size() == 1:
        return
    sizes = decided_by_rank_0(lambda: {path.name: path.stat().st_size for path in sorted(folder.iterdir())}, rank)
    on = device if dist.get_backend() == "nccl" else torch.device("cpu")
    for name, size in sizes.items():
        with (folder / name).open("rb" if rank == 0 else "wb") as file:
            for start in range(0, size, _PIECE_BYTES):
                length = min(_PIECE_BYTES, size - start)
                piece = torch.empty(length, dtype=torch.uint8)
                if rank == 0:
                    piece = torch.frombuffer(bytearray(file.read(length)), dtype=torch.uint8)
                piece = piece.to(on)
                dist.broadcast(piece, src=0)
                if rank != 0:
                    file.write(piece.cpu().numpy().tobytes())


def data_parallel(model: torch.nn.Module, device: torch.device, *, sync_batchnorm: bool = False) -> torch.nn.Module:
    """The model wrapped so that ranks share their gradients; itself in a run of one rank.

    Args:
        sync_batchnorm: BatchNorm that learns takes its statistics over all ranks.
    """
    if world_size() == 1:
        return model
    if sync_batchnorm:
        synchronise_batchnorm(model)
    ids = [device.index or 0] if device.type == "cuda" else None
    # Training does not read running statistics: they are averaged before a checkpoint or a validation
    # (average_buffers), not at every step.
    return torch.nn.parallel.DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, forward_sync_buffers=False
    )
