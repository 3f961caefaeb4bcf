"""A scene of ``preprocessing.synthetic``, objects over a background, and the scenes in which a class is one object's
pair of texture and motion.

All lengths are in pixels of the clip; speeds are given for a frame of short side 64 and scaled.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from preprocessing.synthetic.textures import Look, background, paint

MOTIONS = ("rise", "sink", "sway", "swell")

_SWELL = 0.26  # natural log of the largest size over the middle size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Object:
    """One object in every frame."""

    look: Look
    center_T2: np.ndarray
    """(x, y) of its middle, y modulo the height."""
    radius_T: np.ndarray
    """Half its height."""
    drift_T: np.ndarray
    """Displacement downwards of its texture inside its outline."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip. ``shake_T2`` is the displacement of the whole picture by the camera."""

    width: int
    height: int
    objects: tuple[Object, ...]
    """In the order in which they are painted: the last one is in front."""
    shake_T2: np.ndarray
    noise: float  # standard deviation of the sensor's noise, grey levels

    @property
    def unit(self) -> float:
        """Pixels that one pixel of a frame of short side 64 becomes."""
        return min(self.height, self.width) / 64


def draw_pair(rng: np.random.Generator, appearance: str, motion: str, num_frames: int) -> Scene:
    """A scene of one object whose distribution differs between classes only in ``appearance`` and ``motion``: the order
    of draws is the same for every class.
    """
    height = 2 * int(rng.integers(36, 65))  # 72..128
    width = min(176, max(96, 2 * round(height * rng.uniform(1.0, 1.6) / 2)))
    unit = min(height, width) / 64
    t = np.arange(num_frames)
    wave = triangle_wave(t, period=rng.uniform(12, 16), phase=rng.uniform(0, 1))
    speed, start_y = rng.uniform(1.3, 2.4) * unit, rng.uniform(0, height)
    reach, still, still_size = rng.uniform(6.0, 8.0) * unit, rng.uniform(-1, 1), rng.uniform(-1, 1)
    middle_x = width * rng.uniform(0.42, 0.58)
    x = middle_x + reach * (wave if motion == "sway" else np.full(num_frames, still))
    y = start_y + {"rise": -speed, "sink": speed}.get(motion, 0.0) * t
    size = wave if motion == "swell" else np.full(num_frames, still_size)
    shake = camera_shake(rng, num_frames, 0.35 * unit)
    radius_T = rng.uniform(0.29, 0.34) * height * np.exp(_SWELL * size)
    look = Look.draw(rng, appearance)
    one = Object(
        look=look, center_T2=np.stack([x, y % height], axis=1), radius_T=radius_T, drift_T=np.zeros(num_frames)
    )
    return Scene(width=width, height=height, objects=(one,), shake_T2=shake, noise=rng.uniform(1.0, 4.0))


def triangle_wave(t: np.ndarray, *, period: float, phase: float) -> np.ndarray:
    """Triangle wave in [-1, 1]: constant speed, uniform values."""
    return 4 * np.abs((t / period + phase) % 1 - 0.5) - 1


def camera_shake(rng: np.random.Generator, num_frames: int, step_px: float) -> np.ndarray:
    """(T, 2): a camera held by hand; each displacement is 0.7 of the one before, and a normal step."""
    steps = rng.normal(0, step_px, (num_frames, 2))
    shake = np.zeros((num_frames, 2))
    for i in range(1, num_frames):
        shake[i] = 0.7 * shake[i - 1] + steps[i]
    return shake


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB of ``scene``; ``rng`` gives background and noise."""
    height, width = scene.height, scene.width
    margin = 8 + math.ceil(float(np.abs(scene.shake_T2).max()))
    behind = background(rng, height + 2 * margin, width + 2 * margin)
    # One field of noise read at random offsets: as good as fresh noise, and much cheaper.
    field = rng.normal(0, scene.noise, (height + 64, width + 64, 3)).astype(np.float32)
    frames = np.empty((len(scene.shake_T2), height, width, 3), np.uint8)
    for t, (dx, dy) in enumerate(scene.shake_T2):
        middle = (margin + (width - 1) / 2 - dx, margin + (height - 1) / 2 - dy)
        picture = cv2.getRectSubPix(behind, (width, height), middle)
        for one in scene.objects:
            x, y = one.center_T2[t]
            paint(picture, one.look, x + dx, y + dy, one.radius_T[t], one.drift_T[t])
        i, j = rng.integers(0, 65, 2)
        frames[t] = np.clip(picture + field[i : i + height, j : j + width] + 0.5, 0, 255)
    return frames
