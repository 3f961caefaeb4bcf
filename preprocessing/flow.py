"""Optical flow of a clip, behind one interface, so that engines can be exchanged and compared.

Flow is computed on the frames that are stored (after the resize): pixels of flow are pixels of the video beside it.
"""

from __future__ import annotations

import abc
import itertools

import cv2
import numpy as np

from pipeline.config.base import require


class FlowEngine(abc.ABC):
    """Dense optical flow between neighbouring frames."""

    name: str  # as in StoredConfig.flow_engine; part of what decides stored bytes

    @abc.abstractmethod
    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        """Displacement of every pixel from frame t to frame t + 1.

        Args:
            gray_THW: (T, H, W) uint8, T >= 2, brightness 0..255 (the data term's weight assumes this scale).

        Returns:
            (T - 1, 2, H, W) float32: u (to the right), then v (down), in pixels.

        Raises:
            ValueError: another shape or dtype, naming it.
        """


class OpenCVTVL1(FlowEngine):
    """Duality-based TV-L1 (Zach, Pock, Bischof 2007) as OpenCV computes it, with its default parameters.

    These are the parameters of the two-stream literature (tau .25, lambda .15, theta .3, 5 scales of 0.8, 5 warps,
    10 x 30 iterations, median 5). Cost on one core: 0.08 s a pair at short side 64, 0.33 s at 128, about 1 s at 340x256.
    """

    name = "opencv"

    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        _check_gray(gray_THW)
        cv2.setNumThreads(1)  # one task is one core; OpenCV would take them all
        # A new object for every clip: it keeps buffers of one size, lowers its number of scales for a small picture
        # and does not raise it again, and is not safe to share between threads.
        solver = cv2.optflow.DualTVL1OpticalFlow_create()
        pairs = [solver.calc(a, b, None) for a, b in itertools.pairwise(gray_THW)]
        return np.ascontiguousarray(np.stack(pairs).transpose(0, 3, 1, 2), dtype=np.float32)


_ENGINES: dict[str, type[FlowEngine]] = {OpenCVTVL1.name: OpenCVTVL1}


def flow_engine(name: str) -> FlowEngine:
    """The engine of that name; ConfigError lists those there are."""
    require(name in _ENGINES, "stored.flow_engine", name, f"use one of {', '.join(sorted(_ENGINES))}")
    return _ENGINES[name]()


def to_gray(rgb_THWC: np.ndarray) -> np.ndarray:
    """Brightness of RGB frames (not BGR): (T, H, W, 3) uint8 to (T, H, W) uint8, 0.299 R + 0.587 G + 0.114 B."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb_THWC])


def _check_gray(gray_THW: np.ndarray) -> None:
    if gray_THW.ndim != 3 or gray_THW.dtype != np.uint8 or gray_THW.shape[0] < 2:
        raise ValueError(f"expected uint8 (T, H, W) with T >= 2, got {gray_THW.dtype} {gray_THW.shape}")
