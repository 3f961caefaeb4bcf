"""How clips lie in memory, and how motion frames are joined along channels."""

from __future__ import annotations

import functools
import sys
import threading

import numpy as np
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.clips import stack_gather


def empty_clips(
    rows: int, frames: int, channels: int, side: int, channels_last: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """An uninitialised (rows, frames, channels, side, side) float32 tensor, and the same memory in the order it lies
    in.

    With ``channels_last`` that is (rows, frames, side, side, channels): frames folded into the batch are then
    channels_last to torch.
    """
    if not channels_last:
        memory = torch.empty(rows, frames, channels, side, side, device=device)
        return memory, memory
    memory = torch.empty(rows, frames, side, side, channels, device=device)
    return memory.permute(0, 1, 4, 2, 3), memory


class ClipMemory:
    """Reuses the memory of clips that are no longer referenced: fresh pages of a large batch cost a fifth of a clip's
    CPU time.

    Args:
        keep: blocks kept, at most; more that are held at once are given back when they are no longer held.
        pinned: page-locked memory, from which a GPU copies while the process goes on.
    """

    def __init__(self, keep: int = 16, *, pinned: bool = False) -> None:
        self._keep, self._pinned, self._lock = keep, pinned, threading.Lock()
        self._blocks: list[np.ndarray] = []

    def empty_clips(
        self, rows: int, frames: int, channels: int, side: int, channels_last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the function of that name, on the CPU. The memory comes back when the last tensor that shares it is
        gone.
        """
        count = rows * frames * channels * side * side
        with self._lock:
            block = next(
                (b for b in self._blocks if b.size >= count and sys.getrefcount(b) == _UNUSED_REFERENCES), None
            )
            if block is None:
                block = torch.empty(count, pin_memory=True).numpy() if self._pinned else np.empty(count, np.float32)
                # Blocks that are too small for what is wanted now will hardly be wanted again.
                self._blocks = [b for b in self._blocks if b.size >= count or sys.getrefcount(b) > _UNUSED_REFERENCES]
                if len(self._blocks) < self._keep:
                    self._blocks.append(block)
            memory = torch.from_numpy(block)[:count]
        if not channels_last:
            memory = memory.view(rows, frames, channels, side, side)
            return memory, memory
        memory = memory.view(rows, frames, side, side, channels)
        return memory.permute(0, 1, 4, 2, 3), memory


def _count_references() -> int:
    blocks = [np.empty(0)]
    return next(sys.getrefcount(b) for b in blocks)


_UNUSED_REFERENCES = _count_references()  # of a block that only its list, the loop over it and the counting hold


def stack_motion(frames: torch.Tensor, clip: ClipConfig) -> torch.Tensor:
    """(B, L, C, H, W) frames of a motion window to (B, T, stack*C, H, W), in the memory order of ``frames``."""
    gather = stack_gather(clip)
    if gather.shape == (frames.shape[1], 1):
        return frames
    batch, _, channels, height, _ = frames.shape
    channels_last = channels > 1 and frames.stride(2) == 1
    out, _ = empty_clips(batch, clip.num_frames, clip.stack * channels, height, channels_last, frames.device)
    for k in range(clip.stack):
        out[:, :, k * channels : (k + 1) * channels] = frames[:, _taken(clip, k, frames.device)]
    return out


@functools.lru_cache(maxsize=64)
def _taken(clip: ClipConfig, place: int, device: torch.device) -> torch.Tensor:
    """The frame of each step at one place of its stack; kept on the device, because a copy to it waits for it."""
    return torch.from_numpy(stack_gather(clip)[:, place]).to(device)
