"""The picture behind ``preprocessing.synthetic``: a textured object over a textured background.

All lengths are in pixels of the clip; speeds are given for a frame of short side 64 and scaled.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

APPEARANCES = ("stripes", "dots", "rings", "checks")
MOTIONS = ("rise", "sink", "sway", "swell")

_EDGE_PX = 1.0  # width of the soft edge of outline and texture: as a lens would give
_SWELL = 0.26  # natural log of the largest size over the middle size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip, drawn from a distribution that differs between classes only in ``appearance`` and ``motion``.

    ``center_T2`` holds (x, y) of the object for every frame, y modulo the height; ``radius_T`` its half
    height; ``shake_T2`` the displacement of the whole picture by the camera.
    """

    appearance: str
    motion: str
    width: int
    height: int
    center_T2: np.ndarray
    radius_T: np.ndarray
    shake_T2: np.ndarray
    aspect: float
    roundness: float  # exponent of the superellipse: 2 ellipse, 4 nearly a rectangle
    angle: float  # orientation of the texture, radians
    phase: np.ndarray  # (2,), of the texture, radians
    period: float  # of the texture, in radii
    colors: np.ndarray  # (2, 3), of the texture, 0..255
    noise: float  # standard deviation of the sensor's noise, grey levels

    @classmethod
    def draw(cls, rng: np.random.Generator, appearance: str, motion: str, num_frames: int) -> Scene:
        """Draw everything a class does not fix. The order of draws is the same for every class."""
        height = 2 * int(rng.integers(36, 65))  # 72..128
        width = min(176, max(96, 2 * round(height * rng.uniform(1.0, 1.6) / 2)))
        unit = min(height, width) / 64
        t = np.arange(num_frames)
        wave = _triangle(t, period=rng.uniform(12, 16), phase=rng.uniform(0, 1))
        speed, start_y = rng.uniform(1.3, 2.4) * unit, rng.uniform(0, height)
        reach, still, still_size = rng.uniform(6.0, 8.0) * unit, rng.uniform(-1, 1), rng.uniform(-1, 1)
        middle_x = width * rng.uniform(0.42, 0.58)
        x = middle_x + reach * (wave if motion == "sway" else np.full(num_frames, still))
        y = start_y + {"rise": -speed, "sink": speed}.get(motion, 0.0) * t
        size = wave if motion == "swell" else np.full(num_frames, still_size)
        steps = rng.normal(0, 0.35 * unit, (num_frames, 2))
        shake = np.zeros((num_frames, 2))
        for i in range(1, num_frames):
            shake[i] = 0.7 * shake[i - 1] + steps[i]
        return cls(
            appearance=appearance,
            motion=motion,
            width=width,
            height=height,
            center_T2=np.stack([x, y % height], axis=1),
            radius_T=rng.uniform(0.29, 0.34) * height * np.exp(_SWELL * size),
            shake_T2=shake,
            aspect=rng.uniform(0.9, 1.3),
            roundness=rng.uniform(2.0, 4.0),
            angle=rng.uniform(0, math.pi),
            phase=rng.uniform(0, 2 * math.pi, 2),
            period=rng.uniform(0.85, 1.05),
            colors=_two_colors(rng),
            noise=rng.uniform(1.0, 4.0),
        )


def _triangle(t: np.ndarray, *, period: float, phase: float) -> np.ndarray:
    """Triangle wave in [-1, 1]: constant speed, uniform values."""
    return 4 * np.abs((t / period + phase) % 1 - 0.5) - 1


def _two_colors(rng: np.random.Generator) -> np.ndarray:
    """A dark and a bright random tint, in random order: the texture stands out, its colours carry no information."""
    colors = np.stack([rng.uniform(0, 75, 3), rng.uniform(180, 255, 3)]).astype(np.float32)
    return colors[rng.permutation(2)]


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32: blotches without any period, at three scales, around a random middle grey with a
    tint.
    """
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = rng.uniform(95, 160) + rng.uniform(-20, 20, 3)
    for cells, amplitude in ((3, 18), (8, 12), (20, 8)):
        coarse = rng.normal(0, amplitude, (cells, math.ceil(cells * width / height), 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255)


def _texture(scene: Scene, p: np.ndarray, q: np.ndarray, radius: float) -> np.ndarray:
    """Share of the second colour, 0..1, at the points (p, q) given in radii from the object's middle."""
    c, s = math.cos(scene.angle), math.sin(scene.angle)
    a, b = (c * p + s * q) * (2 * math.pi / scene.period), (c * q - s * p) * (2 * math.pi / scene.period)
    match scene.appearance:
        case "stripes":
            level = np.sin(a + scene.phase[0])
        case "checks":  # longer period: a check has two edges where a stripe has one
            level = 1.6 * np.sin(a * 0.75 + scene.phase[0]) * np.sin(b * 0.75 + scene.phase[1])
        case "dots":
            level = 0.75 * (np.cos(a * 0.9 + scene.phase[0]) + np.cos(b * 0.9 + scene.phase[1]) - 0.75)
        case _:  # rings, not quite around the middle
            offset = 0.25 * np.cos(scene.phase)
            level = np.sin(np.hypot(p - offset[0], q - offset[1]) * (2 * math.pi / scene.period) + scene.phase[0])
    slope = scene.period * radius / (2 * math.pi * _EDGE_PX)  # soft edges about 1 px wide, whatever the period
    return np.clip(0.5 + level * slope, 0, 1)


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB of ``scene``; ``rng`` gives background and noise."""
    height, width = scene.height, scene.width
    margin = 8 + math.ceil(float(np.abs(scene.shake_T2).max()))
    background = _background(rng, height + 2 * margin, width + 2 * margin)
    # One field of noise read at random offsets: as good as fresh noise, and much cheaper.
    field = rng.normal(0, scene.noise, (height + 64, width + 64, 3)).astype(np.float32)
    frames = np.empty((len(scene.radius_T), height, width, 3), np.uint8)
    for t, ((x, y), radius, (dx, dy)) in enumerate(zip(scene.center_T2, scene.radius_T, scene.shake_T2, strict=True)):
        middle = (margin + (width - 1) / 2 - dx, margin + (height - 1) / 2 - dy)
        picture = cv2.getRectSubPix(background, (width, height), middle)
        _paint(picture, scene, x + dx, y + dy, radius)
        i, j = rng.integers(0, 65, 2)
        frames[t] = np.clip(picture + field[i : i + height, j : j + width] + 0.5, 0, 255)
    return frames


def _paint(picture: np.ndarray, scene: Scene, x: float, y: float, radius: float) -> None:
    """Blend the object into ``picture`` in place; rows are taken modulo the height."""
    height, width = picture.shape[:2]
    reach_y, reach_x = math.ceil(radius) + 2, math.ceil(radius * scene.aspect) + 2
    rows = np.arange(math.floor(y) - reach_y, math.floor(y) + reach_y + 2)
    columns = np.arange(max(0, math.floor(x) - reach_x), min(width, math.floor(x) + reach_x + 2))
    q = ((rows - y) / radius).astype(np.float32)[:, None]
    p = ((columns - x) / radius).astype(np.float32)[None, :]
    distance = (np.abs(p / scene.aspect) ** scene.roundness + np.abs(q) ** scene.roundness) ** (1 / scene.roundness)
    cover = np.clip(0.5 + (1 - distance) * radius / _EDGE_PX, 0, 1)[..., None]
    share = _texture(scene, p, q, radius)[..., None]
    paint = scene.colors[0] * (1 - share) + scene.colors[1] * share
    place = np.ix_(rows % height, columns)
    picture[place] += cover * (paint - picture[place])
