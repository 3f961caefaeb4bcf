"""The brightness plane of a decoded picture."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np


def luma(frame: av.VideoFrame) -> np.ndarray:
    """The stored brightness plane of a picture, (H, W) uint8, without a conversion: of flow these are the codes."""
    plane = frame.planes[0]
    pixels = np.frombuffer(cast(Any, plane), np.uint8)  # planes are buffers, which PyAV's stubs do not say
    return pixels.reshape(-1, plane.line_size)[: frame.height, : frame.width]
