"""The brightness plane of a decoded picture."""

from __future__ import annotations

import av
import numpy as np


def luma(frame: av.VideoFrame) -> np.ndarray:
    """The stored brightness plane of a picture, (H, W) uint8, without a conversion: of flow these are the codes."""
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]  # pyright: ignore[reportCallIssue, reportArgumentType] - planes are buffers; PyAV's stubs do not say so
