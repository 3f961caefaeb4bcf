"""Videos that are shorter than a clip: how many a split has, and what to tell the user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.clips import span

_FEW = 0.05  # share of short videos up to which a smaller stride is recommended as one that fits


def frames_needed(clip: ClipConfig, modalities: Sequence[str]) -> int:
    """RGB frames of a video that a clip can take without repeating one."""
    return span(clip) - (0 if any(m != "rgb" for m in modalities) else clip.stack)


def short_note(frames: np.ndarray, clip: ClipConfig, modalities: Sequence[str], split: str, fps: float) -> str:
    """One line about the videos of a split for which ``clip`` is too long; empty if there is none.

    Args:
        frames: (N,) RGB frames of each stored video.
        split: its name, for the line.
        fps: of the stored videos; 0: each has its own.
    """
    needed = frames_needed(clip, modalities)
    short = int((frames < needed).sum())
    if not short:
        return ""
    rate = f" at {fps:g} fps" if fps else ""
    line = (
        f"{short} of {len(frames)} videos in split {split!r} are shorter than the {needed} frames{rate} that a clip"
        f" covers (clip.num-frames {clip.num_frames}, clip.stride {clip.stride})"
    )
    if clip.short_videos == "stretch":
        fewer = int((frames <= clip.num_frames).sum())
        repeated = f"; {fewer} have too few for that and show some frames twice" if fewer else ""
        return f"{line}: their clips take frames that are closer together{repeated}"
    other = _smaller_stride(frames, clip, modalities)
    return f"{line}: their last frame is repeated; use --clip.short-videos stretch{other}"


def _smaller_stride(frames: np.ndarray, clip: ClipConfig, modalities: Sequence[str]) -> str:
    """The largest stride that nearly all videos have room for, as an alternative in the line; empty if none helps."""
    for stride in range(clip.stride - 1, 0, -1):
        needed = frames_needed(clip, modalities) - (clip.stride - stride) * (clip.num_frames - 1)
        short = int((frames < needed).sum())
        if short <= _FEW * len(frames):
            return f", or --clip.stride {stride} ({needed} frames, {short} too short)"
    return ""
