"""How clips lie in memory, and how motion frames are joined along channels."""

from __future__ import annotations

import torch

from pipeline.config.data import ClipConfig
from pipeline.data.clips import stack_gather


def empty_clips(
    rows: int, frames: int, channels: int, side: int, channels_last: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """An uninitialised (rows, frames, channels, side, side) float32 tensor, and the same memory in the order it lies in.

    With ``channels_last`` that is (rows, frames, side, side, channels): frames folded into the batch are then channels_last to torch.
    """
    if not channels_last:
        memory = torch.empty(rows, frames, channels, side, side, device=device)
        return memory, memory
    memory = torch.empty(rows, frames, side, side, channels, device=device)
    return memory.permute(0, 1, 4, 2, 3), memory


def stack_motion(frames: torch.Tensor, clip: ClipConfig) -> torch.Tensor:
    """(B, L, C, H, W) frames of a motion window to (B, T, stack*C, H, W), in the memory order of ``frames``."""
    gather = stack_gather(clip)
    if gather.shape == (frames.shape[1], 1):
        return frames
    batch, _, channels, height, _ = frames.shape
    channels_last = channels > 1 and frames.stride(2) == 1
    out, _ = empty_clips(batch, clip.num_frames, clip.stack * channels, height, channels_last, frames.device)
    for k in range(clip.stack):
        take = torch.from_numpy(gather[:, k]).to(frames.device)
        out[:, :, k * channels : (k + 1) * channels] = frames[:, take]
    return out
