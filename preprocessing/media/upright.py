"""How a picture has to be turned and mirrored to be shown upright.

A file says it with a display matrix (ISO 14496-12): a picture's point (x, y), y downwards, is shown at
(a x + c y, b x + d y). Of its eight orientations four are rotations and four mirrored. Angles in between are taken as
the nearest of these.
"""

from __future__ import annotations

import dataclasses

import av
import numpy as np


@dataclasses.dataclass(frozen=True)
class Orientation:
    """Exchange rows and columns first, then flip."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of_matrix(cls, a: int, b: int, c: int, d: int) -> Orientation:
        """The orientation nearest to a matrix; upright for one that shows nothing (all 0)."""
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Orientation:
        """What the file or the coded picture says."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV knows not all kinds of FFmpeg's side data, such as Exif, but still the rotation
            return _OF_ROTATION.get(round(frame.rotation / 90) * 90 % 360, cls())
        if matrix is None:
            return cls()
        a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
        return cls.of_matrix(a, b, c, d)

    def apply(self, picture_HWC: np.ndarray) -> np.ndarray:
        """The upright picture, contiguous."""
        turned = picture_HWC.transpose(1, 0, 2) if self.transposed else picture_HWC
        return np.ascontiguousarray(turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


_OF_ROTATION = {90: Orientation(True, False, True), 180: Orientation(False, True, True), 270: Orientation(True, True)}
"""By the angle, counterclockwise."""
