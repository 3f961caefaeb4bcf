"""Optical flow of a clip, behind one interface, so that engines can be exchanged and compared.

Flow is computed on the frames that are stored (after the resize): pixels of flow are pixels of the stored video.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import cv2
import numpy as np

from preprocessing.flow.params import FlowMode, TVL1Params


class FlowEngine(abc.ABC):
    """Dense optical flow between neighbouring frames.

    To the last bit, the flow of a pair depends only on its two frames: not on the batch, the clip, the thread or
    earlier calls. An object belongs to one thread.
    """

    name: ClassVar[str]  # as in StoredConfig.flow_engine
    version: ClassVar[str]  # changes whenever the bits may change: a revision of ours, or the library's version
    mode: FlowMode = "tvl1"
    params: TVL1Params
    block_frames: ClassVar[int] = 16  # frames to pass per call if a clip is long

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

    def describe(self) -> dict[str, Any]:
        """What decides the bits: engine, version, mode and parameters. It is in every record and in the parameter
        hash.
        """
        parameters = dataclasses.asdict(self.params)
        if not self.params.settled_px:
            del parameters["settled_px"]  # off: flow is described as it was before there was such a parameter
        return {
            "engine": self.name,
            "version": self.version,
            "mode": self.mode,
            "parameters": parameters,
        }


def to_gray(rgb_THWC: np.ndarray) -> np.ndarray:
    """Brightness of RGB frames (not BGR): (T, H, W, 3) uint8 to (T, H, W) uint8, 0.299 R + 0.587 G + 0.114 B."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb_THWC])


def check_gray(gray_THW: np.ndarray) -> None:
    """ValueError if the argument of ``FlowEngine.flow`` has another shape or dtype."""
    if gray_THW.ndim != 3 or gray_THW.dtype != np.uint8 or gray_THW.shape[0] < 2:
        raise ValueError(f"expected uint8 (T, H, W) with T >= 2, got {gray_THW.dtype} {gray_THW.shape}")
