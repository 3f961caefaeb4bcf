"""Videos that are shorter than a clip: how many a split has, and what to tell the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.clips import span, takes_motion

_FEW = 0.05  # share of short videos up to which a smaller stride is recommended as one that fits


def short_note(
    frames: np.ndarray, clip: ClipConfig, modalities: Sequence[str], split: str, stored: Mapping[str, Any]
) -> str:
    """One line about the videos of a split for which ``clip`` is too long; empty if there is none.

    Args:
        frames: (N,) RGB frames of each stored video.
        split: its name, for the line.
        stored: parameters of preprocessing, as the manifest has them.
    """
    needed = span(clip, modalities)
    short = int((frames < needed).sum())
    if not short:
        return ""
    rate = f" at {stored['fps']:g} fps" if stored.get("fps") else ""  # 0: each video has its own
    verb = "is" if short == 1 else "are"
    line = (
        f"{short} of {len(frames)} videos in split {split!r} {verb} shorter than the {needed} frames{rate} that a clip"
        f" covers (clip.num-frames {clip.num_frames}, clip.stride {clip.stride})"
    )
    if clip.short_videos == "stretch":
        fewer = int((frames - takes_motion(modalities) < clip.num_frames).sum())
        repeated = f"; in {fewer} of them some frames are shown twice" if fewer else ""
        return f"{line}: the frames of a clip are taken closer together{repeated}"
    other = _smaller_stride(frames, clip, modalities)
    return f"{line}: the last frame is repeated; train with {other}--clip.short-videos stretch"


def short_video_note(num_frames: int, clip: ClipConfig, modalities: Sequence[str]) -> str:
    """One line about a video of ``num_frames`` RGB frames for which ``clip`` is too long; empty where it is not."""
    needed = span(clip, modalities)
    if num_frames >= needed:
        return ""
    what = "taken closer together" if clip.short_videos == "stretch" else "repeated at the end"
    return f"{num_frames} frames, fewer than the {needed} that a clip covers: frames are {what}"


def _smaller_stride(frames: np.ndarray, clip: ClipConfig, modalities: Sequence[str]) -> str:
    """The largest stride that nearly all videos have room for, as a choice in the line; empty if none helps."""
    for stride in range(clip.stride - 1, 0, -1):
        needed = span(clip, modalities) - (clip.stride - stride) * (clip.num_frames - 1)
        short = int((frames < needed).sum())
        if short <= _FEW * len(frames):
            return f"--clip.stride {stride} ({needed} frames, {short} too short) or "
    return ""
