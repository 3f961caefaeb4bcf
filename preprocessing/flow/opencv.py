"""The reference: TV-L1 as OpenCV computes it."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from preprocessing.flow.base import FlowEngine, check_gray
from preprocessing.flow.params import TVL1Params


class OpenCVTVL1(FlowEngine):
    """Duality-based TV-L1 (Zach, Pock, Bischof 2007) as OpenCV computes it, with its default parameters.

    These are the parameters of the two-stream literature (tau .25, lambda .15, theta .3, 5 scales of 0.8, 5 warps,
    10 x 30 iterations, median 5). Cost on one core: 0.08 s a pair at short side 64, 0.33 s at 128, about 1 s at
    340x256.
    """

    name = "opencv"
    version = cv2.__version__

    def __init__(self, params: TVL1Params | None = None) -> None:
        self.params = params or TVL1Params()
        if self.params.settled_px:
            raise ValueError("OpenCV does every warp: settled_px must be 0")

    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        check_gray(gray_THW)
        cv2.setNumThreads(1)  # one task has one core; OpenCV would use them all
        # A new object for every clip: it keeps buffers of one size, lowers its number of scales for a small picture
        # and does not raise it again, and is not safe to share between threads.
        p = self.params
        solver = cv2.optflow.DualTVL1OpticalFlow_create(
            tau=p.tau,
            lambda_=p.lambda_,
            theta=p.theta,
            nscales=p.scales,
            warps=p.warps,
            epsilon=p.epsilon,
            innnerIterations=p.inner_iterations,
            outerIterations=p.outer_iterations,
            scaleStep=p.scale_step,
            gamma=0.0,
            medianFiltering=5 if p.median else 1,
            useInitialFlow=False,
        )
        pairs = [solver.calc(a, b, None) for a, b in itertools.pairwise(gray_THW)]
        return np.ascontiguousarray(np.stack(pairs).transpose(0, 3, 1, 2), dtype=np.float32)
