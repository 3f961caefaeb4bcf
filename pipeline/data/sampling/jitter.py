"""Colour jitter: one affine map of RGB a clip, drawn once, then values are cut to the range of codes.

On codes x in 0..255, in this order:

    brightness  x * b
    contrast    (x - 127.5) * c + 127.5
    saturation  in NTSC's YIQ: I * s, Q * s
    hue         in NTSC's YIQ: (I, Q) turned by h whole turns

All four are linear or affine, so a clip's jitter is one 3x4 matrix, the same for every backend; Y (BT.601 luma) is kept
by saturation and hue. The centre of the contrast is fixed, unlike torchvision's (the picture's mean), so that all
frames of a clip change alike.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipeline.config.data import ClipConfig

MIDDLE = 127.5
# Rows Y, I, Q of FCC NTSC (1953) from R, G, B.
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclasses.dataclass(frozen=True)
class Jitter:
    """A clip's draw. ``brightness``, ``contrast``, ``saturation``: factors, 1 changes nothing; ``hue``: whole turns."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def matrix(self) -> np.ndarray:
        """(3, 4) float64: RGB codes x become ``M[:, :3] @ x + M[:, 3]``, then cut to 0..255."""
        angle = 2 * math.pi * self.hue
        turn = self.saturation * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        chroma = np.eye(3)
        chroma[1:, 1:] = turn
        colour = np.linalg.inv(YIQ) @ chroma @ YIQ
        offset = np.full(3, MIDDLE * (1 - self.contrast))
        return np.concatenate([colour * (self.brightness * self.contrast), (colour @ offset)[:, None]], 1)


def draw_jitter(clip: ClipConfig, rng: np.random.Generator) -> Jitter | None:
    """A clip's jitter, or None where all are off; draws four numbers where any is on, so that one knob leaves the
    others' draws alone.
    """
    if not clip.jitters:
        return None
    b, c, s, h = (float(x) for x in rng.uniform(-1, 1, 4))
    return Jitter(1 + b * clip.brightness, 1 + c * clip.contrast, 1 + s * clip.saturation, h * clip.hue)
