"""Which checkpoint a run goes on from: rank 0 decides, verifies and reads it, the other ranks get its files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.storage.scratch import scratch_folder
from pipeline.training.checkpoint import check_readable
from pipeline.training.collective import decided_by_rank_0, share_files


@contextlib.contextmanager
def newest_checkpoint(store: CheckpointStore, rank: int, device: torch.device) -> Iterator[tuple[str, Path] | None]:
    """The newest sound checkpoint: its name, and its files in a local folder of every rank; None where there is none.
    Collective.

    The storage is read once, whatever the number of ranks, and all of them load the same bytes.
    """
    with contextlib.ExitStack() as stack:
        found = decided_by_rank_0(lambda: stack.enter_context(store.newest(check_readable)), rank)
        if found is not None:
            name, folder = found
            if rank != 0:
                folder = stack.enter_context(scratch_folder())
            share_files(folder, rank, device)
            found = name, folder
        yield found
