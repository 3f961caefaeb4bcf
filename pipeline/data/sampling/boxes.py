"""Which part of the picture a clip takes, in whole stored pixels: training boxes at random, test boxes at fixed
places.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipeline.config.data import ClipConfig

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10

# TSN (Wang et al., section 3.3, and its public settings): sides as shares of the short side; width and height are drawn
# together and are at most one step apart.
_SCALES = (1.0, 0.875, 0.75, 0.66)
_SCALE_PAIRS = tuple((h, w) for i, h in enumerate(_SCALES) for j, w in enumerate(_SCALES) if abs(i - j) <= 1)
# Places in quarters of the free room, (down, right): 4 corners, centre, 4 middles of edges, 4 quarter points.
_PLACES = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3))


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of the stored picture, in whole pixels: rows ``top .. top+height-1``, columns likewise."""

    top: int
    left: int
    height: int
    width: int


def area_box(height: int, width: int, min_area: float, rng: np.random.Generator) -> Box:
    """Box of random area and ratio, as Inception's training crops: ten tries, then the largest centred box of a
    legal ratio.
    """
    for _ in range(_TRIES):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    w = min(width, max(1, int(height * _RATIO[1])))
    h = min(height, max(1, int(width / _RATIO[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def corner_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """TSN's multi-scale corner crop: one of 10 pairs of sides at one of 13 places, each as likely as the others."""
    down, right = _SCALE_PAIRS[int(rng.integers(len(_SCALE_PAIRS)))]
    h, w = (max(1, int(min(height, width) * share)) for share in (down, right))
    row, column = _PLACES[int(rng.integers(len(_PLACES)))]
    return Box(round((height - h) * row / 4), round((width - w) * column / 4), h, w)


def view_side(height: int, width: int, clip: ClipConfig) -> int:
    """Side in stored pixels of what "short side to ``clip.test_resize``, then crop" keeps, to the nearest pixel."""
    return max(1, round(min(height, width) * clip.crop / clip.test_resize))


def fixed_box(height: int, width: int, clip: ClipConfig, rng: np.random.Generator) -> Box:
    """A test view's square, anywhere: both papers' "short side to 256, random 224 crop"."""
    side = view_side(height, width, clip)
    return Box(int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side, side)


def train_box(height: int, width: int, clip: ClipConfig, rng: np.random.Generator) -> Box:
    """The random box that ``clip.train_crop`` names."""
    if clip.train_crop == "corners":
        return corner_box(height, width, rng)
    if clip.train_crop == "fixed":
        return fixed_box(height, width, clip, rng)
    return area_box(height, width, clip.min_area, rng)


def centre_box(height: int, width: int, clip: ClipConfig) -> Box:
    """The stored pixels that "short side to ``clip.test_resize``, then centre crop" would keep, to the nearest
    pixel.
    """
    side = view_side(height, width, clip)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def view_boxes(height: int, width: int, clip: ClipConfig, num_crops: int) -> list[Box]:
    """Test crops: the centre one, or three along the long side: its left or top end, its middle, its right or bottom
    end.

    Raises:
        ValueError: ``num_crops`` is neither 1 nor 3.
    """
    centre = centre_box(height, width, clip)
    if num_crops == 1:
        return [centre]
    if num_crops != 3:
        raise ValueError(f"num_crops is {num_crops}: must be 1 or 3")
    along = ("top", height - centre.height) if height > width else ("left", width - centre.width)
    return [dataclasses.replace(centre, **{along[0]: 0}), centre, dataclasses.replace(centre, **{along[0]: along[1]})]
