"""Optical flow of a clip, behind one interface, so that engines can be exchanged and compared.

Flow is computed on the frames that are stored (after the resize): pixels of flow are pixels of the video beside it.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib.util
import itertools
from typing import Any, ClassVar

import cv2
import numpy as np

from pipeline.config.base import require
from preprocessing.tvl1.params import FlowMode, TVL1Params

ENGINES = ("numba", "opencv", "torch")


class FlowEngine(abc.ABC):
    """Dense optical flow between neighbouring frames.

    The flow of a pair is a function of its two frames alone: not of the batch, the clip, the thread or what was
    computed before, to the last bit. An object belongs to one thread.
    """

    name: ClassVar[str]  # as in StoredConfig.flow_engine
    version: ClassVar[str]  # changes whenever the bits may change: a revision of ours, or the library's version
    mode: FlowMode = "tvl1"
    params: TVL1Params
    block_frames: ClassVar[int] = 16  # frames that callers should pass at a time where a clip is long

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
        """What decides the bits: engine, version, mode and parameters. It is in every record and in the parameter hash."""
        return {"engine": self.name, "version": self.version, "mode": self.mode, "parameters": dataclasses.asdict(self.params)}


class OpenCVTVL1(FlowEngine):
    """Duality-based TV-L1 (Zach, Pock, Bischof 2007) as OpenCV computes it, with its default parameters.

    These are the parameters of the two-stream literature (tau .25, lambda .15, theta .3, 5 scales of 0.8, 5 warps,
    10 x 30 iterations, median 5). Cost on one core: 0.08 s a pair at short side 64, 0.33 s at 128, about 1 s at 340x256.
    """

    name = "opencv"
    version = cv2.__version__

    def __init__(self, params: TVL1Params | None = None) -> None:
        self.params = params or TVL1Params()

    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        check_gray(gray_THW)
        cv2.setNumThreads(1)  # one task is one core; OpenCV would take them all
        # A new object for every clip: it keeps buffers of one size, lowers its number of scales for a small picture
        # and does not raise it again, and is not safe to share between threads.
        p = self.params
        solver = cv2.optflow.DualTVL1OpticalFlow_create(
            tau=p.tau, lambda_=p.lambda_, theta=p.theta, nscales=p.scales, warps=p.warps, epsilon=p.epsilon,
            innnerIterations=p.inner_iterations, outerIterations=p.outer_iterations, scaleStep=p.scale_step,
            gamma=0.0, medianFiltering=5 if p.median else 1, useInitialFlow=False,
        )  # fmt: skip
        pairs = [solver.calc(a, b, None) for a, b in itertools.pairwise(gray_THW)]
        return np.ascontiguousarray(np.stack(pairs).transpose(0, 3, 1, 2), dtype=np.float32)


def flow_engine(name: str, mode: FlowMode = "tvl1") -> FlowEngine:
    """A new engine of that name for the calling thread.

    Args:
        name: ``opencv`` (the reference), ``numba`` (CPU), ``torch`` (GPU).
        mode: ``tvl1``, the exact algorithm; ``tvl1-fast``, which trades accuracy for speed (numba and torch alone).

    Raises:
        ConfigError: no such engine, one that is not installed, or one that has no such mode.
    """
    require(name in ENGINES, "flow_engine", name, f"use one of {', '.join(ENGINES)}")
    require(mode == "tvl1" or name != "opencv", "stored.flow_mode", mode, "OpenCV has the exact mode alone: use --flow-engine numba or torch")
    if name == "opencv":
        return OpenCVTVL1()
    # Imported on demand: a registered model with OpenCV's flow must load where numba is not installed.
    require(importlib.util.find_spec(name) is not None, "flow_engine", name, f"{name} is not installed: pip install {name}, or use --flow-engine opencv")
    if name == "numba":
        from preprocessing.tvl1.numba_engine import NumbaTVL1

        return NumbaTVL1(mode=mode)
    from preprocessing.tvl1.torch_engine import TorchTVL1

    return TorchTVL1(mode=mode)


def to_gray(rgb_THWC: np.ndarray) -> np.ndarray:
    """Brightness of RGB frames (not BGR): (T, H, W, 3) uint8 to (T, H, W) uint8, 0.299 R + 0.587 G + 0.114 B."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb_THWC])


def check_gray(gray_THW: np.ndarray) -> None:
    """ValueError where the argument of ``FlowEngine.flow`` has another shape or dtype."""
    if gray_THW.ndim != 3 or gray_THW.dtype != np.uint8 or gray_THW.shape[0] < 2:
        raise ValueError(f"expected uint8 (T, H, W) with T >= 2, got {gray_THW.dtype} {gray_THW.shape}")
