"""Which frames and which part of the picture a clip takes: decided once for all modalities, without pixels.

The plan of a training clip depends on (seed, epoch, sample key) alone; a test view on the sample's size alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.boxes import Box, train_box, view_boxes
from pipeline.data.sampling.jitter import Jitter, draw_jitter
from pipeline.data.sampling.order import sample_rng
from pipeline.dataset.sample import ONLINE_DIFF


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """One clip of one sample; every modality follows it."""

    rgb_frames: tuple[int, ...]
    """T indices into the RGB video."""
    motion_window: tuple[int, ...]
    """Indices into the flow and difference videos, each frame that the clip needs, ascending; see ``stack_gather``."""
    box: Box
    flip: bool
    """Mirror left and right, and negate u."""
    jitter: Jitter | None = None
    """Of RGB alone; None changes no colour."""

    def frames(self, modality: str) -> tuple[int, ...]:
        """Frames to decode for a modality, of the member that it reads."""
        if modality == ONLINE_DIFF:
            return self.rgb_window((modality,))
        return self.rgb_frames if modality == "rgb" else self.motion_window

    def rgb_window(self, modalities: Sequence[str]) -> tuple[int, ...]:
        """Ascending: all RGB frames that rgb and diff-online take together, where they are among ``modalities``; each
        is decoded once.

        With rgb alone these are ``rgb_frames``, repeats included.
        """
        if ONLINE_DIFF not in modalities:
            return self.rgb_frames
        pairs = {frame for first in self.motion_window for frame in (first, first + 1)}
        return tuple(sorted(pairs.union(self.rgb_frames if "rgb" in modalities else ())))

    def rgb_takes(self, window: Sequence[int]) -> np.ndarray:
        """(T,) int32 positions of ``rgb_frames`` in the window."""
        return np.searchsorted(window, self.rgb_frames).astype(np.int32)

    def pair_takes(self, window: Sequence[int]) -> np.ndarray:
        """(2, L) int32 positions in the window of each difference's earlier and later frame, in the order of
        ``motion_window``.
        """
        first = np.array(self.motion_window)
        return np.searchsorted(window, np.stack([first, first + 1])).astype(np.int32)


def motion_offsets(clip: ClipConfig) -> np.ndarray:
    """Ascending distances from the clip's start to every motion frame it needs."""
    starts = np.arange(clip.num_frames) * clip.stride
    return np.unique(starts[:, None] + np.arange(clip.stack))


def stack_gather(clip: ClipConfig) -> np.ndarray:
    """(T, stack) positions in ``motion_window``: step t takes the frames t, t+1, ... of the motion video."""
    wanted = np.arange(clip.num_frames)[:, None] * clip.stride + np.arange(clip.stack)
    return np.searchsorted(motion_offsets(clip), wanted)


def takes_motion(modalities: Sequence[str]) -> bool:
    """Whether one of them is motion: flow, or a difference, stored or made online."""
    return any(modality != "rgb" for modality in modalities)


def span(clip: ClipConfig, modalities: Sequence[str]) -> int:
    """RGB frames that a clip covers, with its motion if it has any: motion frame t needs the RGB frames t and t+1."""
    return (clip.num_frames - 1) * clip.stride + 1 + (clip.stack if takes_motion(modalities) else 0)


def _fitted(offsets: np.ndarray, num_frames: int, clip: ClipConfig, modalities: Sequence[str]) -> np.ndarray:
    """Distances from the clip's start, as they are or, in a video that is too short and to be stretched, scaled to the
    nearest frame such that the clip's last motion frame, or with RGB alone its last frame, is the video's.
    """
    behind = 2 if takes_motion(modalities) else 1  # of N frames the last is N - 1, the last motion frame N - 2
    last, wanted = max(0, num_frames - behind), span(clip, modalities) - behind
    if clip.short_videos == "repeat" or wanted <= last:
        return offsets
    return (2 * offsets * last + wanted) // (2 * wanted)  # in whole numbers: equal on every machine


def view_starts(num_frames: int, num_views: int, clip: ClipConfig, modalities: Sequence[str]) -> np.ndarray:
    """First frames of ``num_views`` uniformly spaced test clips; one view takes the middle. Views of short videos
    coincide.
    """
    last = max(0, num_frames - span(clip, modalities))
    if num_views == 1:
        return np.array([last // 2])
    return np.rint(np.linspace(0, last, num_views)).astype(np.int64)


def _plan(
    start: int,
    num_frames: int,
    clip: ClipConfig,
    modalities: Sequence[str],
    box: Box,
    flip: bool,
    jitter: Jitter | None = None,
) -> ClipPlan:
    steps = _fitted(np.arange(clip.num_frames) * clip.stride, num_frames, clip, modalities)
    rgb = np.minimum(start + steps, num_frames - 1)
    offsets = _fitted(motion_offsets(clip), num_frames, clip, modalities)
    motion = np.clip(start + offsets, 0, max(0, num_frames - 2))
    return ClipPlan(tuple(rgb.tolist()), tuple(motion.tolist()), box, flip, jitter)


def train_plan(
    num_frames: int, height: int, width: int, clip: ClipConfig, modalities: Sequence[str], rng: np.random.Generator
) -> ClipPlan:
    """A random clip: start among those where the clip and its motion, if any, fit, box, flip, colour jitter.

    What a video that is too short gives is ``clip.short_videos``.

    Args:
        num_frames: RGB frames N of the stored video (its motion videos have N - 1).
        height: stored picture's, in pixels; ``width`` likewise.
        modalities: that are made of the clip.
        rng: from ``sample_rng``; the numbers are drawn in a fixed order.
    """
    start = int(rng.integers(0, max(0, num_frames - span(clip, modalities)) + 1))
    box = train_box(height, width, clip, rng)
    flip = bool(rng.random() < 0.5) and clip.flip
    return _plan(start, num_frames, clip, modalities, box, flip, draw_jitter(clip, rng))


def view_plans(
    num_frames: int,
    height: int,
    width: int,
    clip: ClipConfig,
    modalities: Sequence[str],
    num_views: int,
    num_crops: int = 1,
) -> list[ClipPlan]:
    """``num_views`` uniformly spaced clips with each ``num_crops`` (1 or 3) crops, crop by crop within a clip; not
    mirrored.
    """
    boxes = view_boxes(height, width, clip, num_crops)
    return [
        _plan(int(start), num_frames, clip, modalities, box, False)
        for start in view_starts(num_frames, num_views, clip, modalities)
        for box in boxes
    ]


def sample_plans(
    key: str,
    num_frames: int,
    height: int,
    width: int,
    clip: ClipConfig,
    modalities: Sequence[str],
    *,
    train: bool,
    seed: int,
    epoch: int,
    num_views: int = 1,
    num_crops: int = 1,
) -> list[ClipPlan]:
    """The plans of one sample: one random clip for training, ``num_views`` x ``num_crops`` fixed ones otherwise."""
    if train:
        return [train_plan(num_frames, height, width, clip, modalities, sample_rng(seed, epoch, key))]
    return view_plans(num_frames, height, width, clip, modalities, num_views, num_crops)
