"""Textured outlines and the background behind them: what every picture of ``preprocessing.synthetic`` is painted with.

All lengths are in pixels of the clip, unless in radii of the object.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

APPEARANCES = ("stripes", "dots", "rings", "checks")

_GRAIN_PX = 5.0  # distance of two independent greys of a grain
_NO_LUMA = np.array([[1, -0.299 / 0.587, 0], [0, -0.114 / 0.587, 1]])  # changes of RGB that leave BT.601's luma
_EDGE_PX = 1.0  # width of the soft edge of outline and texture: as a lens would give


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What an object looks like."""

    appearance: str
    aspect: float  # width over height
    roundness: float  # exponent of the superellipse: 2 ellipse, 4 nearly a rectangle
    angle: float  # orientation of the texture, radians
    phase: np.ndarray  # (2,), of the texture, radians
    period: float  # of the texture, in radii
    colors: np.ndarray  # (2, 3), of the texture, 0..255; with a grain, what is added to its grey
    grain: np.ndarray | None = None  # (h, w) float32, grey levels that move with the texture; repeats at its edges

    @classmethod
    def draw(cls, rng: np.random.Generator, appearance: str) -> Look:
        """Everything but the texture, from one distribution."""
        return cls(
            appearance=appearance,
            aspect=rng.uniform(0.9, 1.3),
            roundness=rng.uniform(2.0, 4.0),
            angle=rng.uniform(0, math.pi),
            phase=rng.uniform(0, 2 * math.pi, 2),
            period=rng.uniform(0.85, 1.05),
            colors=_two_colors(rng),
        )

    @classmethod
    def draw_grained(cls, rng: np.random.Generator, appearance: str, size_px: int) -> Look:
        """A texture of two hues of equal luma over a random grain of grey: in grey, as optical flow is computed, all
        textures look alike.

        Args:
            size_px: side of the grain, at least that of the object.
        """
        cells = rng.uniform(90, 165, (math.ceil(size_px / _GRAIN_PX),) * 2).astype(np.float32)
        grain = cv2.resize(cells, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        hue = rng.uniform(0, 2 * math.pi)
        tint = math.cos(hue) * _NO_LUMA[0] + math.sin(hue) * _NO_LUMA[1]
        tint *= 60 / np.abs(tint).max()
        drawn = cls.draw(rng, appearance)
        return dataclasses.replace(drawn, colors=np.stack([tint, -tint]).astype(np.float32), grain=grain)


def _two_colors(rng: np.random.Generator) -> np.ndarray:
    """A dark and a bright random tint, in random order: the texture stands out, its colours carry no information."""
    colors = np.stack([rng.uniform(0, 75, 3), rng.uniform(180, 255, 3)]).astype(np.float32)
    return colors[rng.permutation(2)]


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32: blotches without any period, at three scales, around a random middle grey with a
    tint.
    """
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = rng.uniform(95, 160) + rng.uniform(-20, 20, 3)
    for cells, amplitude in ((3, 18), (8, 12), (20, 8)):
        coarse = rng.normal(0, amplitude, (cells, math.ceil(cells * width / height), 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255)


def _texture(look: Look, p: np.ndarray, q: np.ndarray, radius: float) -> np.ndarray:
    """Share of the second colour, 0..1, at the points (p, q) given in radii from the texture's middle."""
    c, s = math.cos(look.angle), math.sin(look.angle)
    a, b = (c * p + s * q) * (2 * math.pi / look.period), (c * q - s * p) * (2 * math.pi / look.period)
    match look.appearance:
        case "stripes":
            level = np.sin(a + look.phase[0])
        case "checks":  # longer period: a check has two edges where a stripe has one
            level = 1.6 * np.sin(a * 0.75 + look.phase[0]) * np.sin(b * 0.75 + look.phase[1])
        case "dots":
            level = 0.75 * (np.cos(a * 0.9 + look.phase[0]) + np.cos(b * 0.9 + look.phase[1]) - 0.75)
        case _:  # rings, not quite around the middle
            offset = 0.25 * np.cos(look.phase)
            level = np.sin(np.hypot(p - offset[0], q - offset[1]) * (2 * math.pi / look.period) + look.phase[0])
    slope = look.period * radius / (2 * math.pi * _EDGE_PX)  # soft edges about 1 px wide, whatever the period
    return np.clip(0.5 + level * slope, 0, 1)


def paint(picture: np.ndarray, look: Look, x: float, y: float, radius: float, drift_y: float = 0.0) -> None:
    """Blend an object into ``picture`` (H, W, 3) float32 in place; rows are taken modulo the height.

    Args:
        x, y: the object's middle.
        radius: its half height.
        drift_y: displacement of the texture inside the outline.
    """
    height, width = picture.shape[:2]
    reach_y, reach_x = math.ceil(radius) + 2, math.ceil(radius * look.aspect) + 2
    rows = np.arange(math.floor(y) - reach_y, math.floor(y) + reach_y + 2)
    columns = np.arange(max(0, math.floor(x) - reach_x), min(width, math.floor(x) + reach_x + 2))
    q = ((rows - y) / radius).astype(np.float32)[:, None]
    p = ((columns - x) / radius).astype(np.float32)[None, :]
    distance = (np.abs(p / look.aspect) ** look.roundness + np.abs(q) ** look.roundness) ** (1 / look.roundness)
    cover = np.clip(0.5 + (1 - distance) * radius / _EDGE_PX, 0, 1)[..., None]
    share = _texture(look, p, q - np.float32(drift_y / radius), radius)[..., None]
    colored = look.colors[0] * (1 - share) + look.colors[1] * share
    if look.grain is not None:
        i, j = (axis.astype(np.float32) for axis in np.broadcast_arrays(rows[:, None] - y - drift_y, columns - x))
        colored = colored + cv2.remap(look.grain, j, i, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)[..., None]
    place = np.ix_(rows % height, columns)
    picture[place] += cover * (colored - picture[place])
