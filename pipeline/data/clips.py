"""Which frames and which part of the picture a clip takes: decided once for all modalities, without pixels.

The plan of a training clip depends on (seed, epoch, sample key) alone; a test view on the sample's size alone.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipeline.config.data import ClipConfig
from pipeline.data.order import sample_rng

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of the stored picture, in whole pixels: rows ``top .. top+height-1``, columns likewise."""

    top: int
    left: int
    height: int
    width: int


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

    def frames(self, modality: str) -> tuple[int, ...]:
        """Frames to decode for a modality."""
        return self.rgb_frames if modality == "rgb" else self.motion_window


def motion_offsets(clip: ClipConfig) -> np.ndarray:
    """Ascending distances from the clip's start to every motion frame it needs."""
    starts = np.arange(clip.num_frames) * clip.stride
    return np.unique(starts[:, None] + np.arange(clip.stack))


def stack_gather(clip: ClipConfig) -> np.ndarray:
    """(T, stack) positions in ``motion_window``: step t takes the frames t, t+1, ... of the motion video."""
    wanted = np.arange(clip.num_frames)[:, None] * clip.stride + np.arange(clip.stack)
    return np.searchsorted(motion_offsets(clip), wanted)


def span(clip: ClipConfig) -> int:
    """RGB frames that a clip and its motion cover: motion frame t needs the RGB frames t and t+1."""
    return (clip.num_frames - 1) * clip.stride + 1 + clip.stack


def view_starts(num_frames: int, num_views: int, clip: ClipConfig) -> np.ndarray:
    """First frames of ``num_views`` uniformly spaced test clips; one view takes the middle. Views of short videos coincide."""
    last = max(0, num_frames - span(clip))
    if num_views == 1:
        return np.array([last // 2])
    return np.rint(np.linspace(0, last, num_views)).astype(np.int64)


def random_box(height: int, width: int, min_area: float, rng: np.random.Generator) -> Box:
    """Box of random area and ratio, as Inception's training crops: ten tries, then the largest centred box of a legal ratio."""
    for _ in range(_TRIES):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    w = min(width, max(1, int(height * _RATIO[1])))
    h = min(height, max(1, int(width / _RATIO[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def centre_box(height: int, width: int, clip: ClipConfig) -> Box:
    """The stored pixels that "short side to ``clip.test_resize``, then centre crop" would keep, to the nearest pixel."""
    side = max(1, round(min(height, width) * clip.crop / clip.test_resize))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def _plan(start: int, num_frames: int, clip: ClipConfig, box: Box, flip: bool) -> ClipPlan:
    rgb = np.minimum(start + np.arange(clip.num_frames) * clip.stride, num_frames - 1)
    motion = np.clip(start + motion_offsets(clip), 0, max(0, num_frames - 2))
    return ClipPlan(tuple(rgb.tolist()), tuple(motion.tolist()), box, flip)


def train_plan(num_frames: int, height: int, width: int, clip: ClipConfig, rng: np.random.Generator) -> ClipPlan:
    """A random clip: start among those where the clip and its motion fit, box, flip.

    In videos that are too short the last frame is repeated.

    Args:
        num_frames: RGB frames N of the stored video (its motion videos have N - 1).
        height: stored picture's, in pixels; ``width`` likewise.
        rng: from ``sample_rng``; the numbers are drawn in a fixed order.
    """
    start = int(rng.integers(0, max(0, num_frames - span(clip)) + 1))
    box = random_box(height, width, clip.min_area, rng)
    flip = bool(rng.random() < 0.5) and clip.flip
    return _plan(start, num_frames, clip, box, flip)


def view_plans(num_frames: int, height: int, width: int, clip: ClipConfig, num_views: int) -> list[ClipPlan]:
    """``num_views`` uniformly spaced clips, each with the centre crop, not mirrored."""
    box = centre_box(height, width, clip)
    return [_plan(int(start), num_frames, clip, box, False) for start in view_starts(num_frames, num_views, clip)]


def sample_plans(
    key: str, num_frames: int, height: int, width: int, clip: ClipConfig, *, train: bool, seed: int, epoch: int, num_views: int = 1
) -> list[ClipPlan]:
    """The plans of one sample: one random clip for training, ``num_views`` fixed ones otherwise."""
    if train:
        return [train_plan(num_frames, height, width, clip, sample_rng(seed, epoch, key))]
    return view_plans(num_frames, height, width, clip, num_views)
