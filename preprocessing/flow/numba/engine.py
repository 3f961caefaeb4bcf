"""TV-L1 on the CPU, compiled by numba: the algorithm of OpenCV's DualTVL1, one thread, no allocation in the loop."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing.flow.base import FlowEngine, check_gray
from preprocessing.flow.numba import pair
from preprocessing.flow.numba.pyramid import LANES
from preprocessing.flow.numba.warp import MARGIN, cubic_table
from preprocessing.flow.params import FlowMode, TVL1Params, params_of

_SMALLEST_SIDE = 16  # px; no further pyramid level is smaller, as in OpenCV


class NumbaTVL1(FlowEngine):
    """TV-L1 as OpenCV's CPU code computes it, many times faster. The first use on a machine compiles for some seconds.

    Args:
        params: by default those of the mode.
        mode: as records name it.

    Raises:
        ConfigError: there is no such mode.
    """

    name = "numba"
    version = "1"

    def __init__(self, params: TVL1Params | None = None, mode: FlowMode = "tvl1") -> None:
        self.mode = mode
        self.params = params or params_of(mode)
        self.iterations: list[float] = []
        """Of every pair of the last clip: iterations, each weighed by its level's share of the picture's pixels."""
        self._layout: _Layout | None = None
        self._w = np.empty(0, np.float32)

    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        check_gray(gray_THW)
        kernel, p = pair.flow_pair_kernel(), self.params
        frames = np.ascontiguousarray(gray_THW)
        layout = self._prepared(frames.shape[1], frames.shape[2])
        out = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
        self.iterations = []
        for t in range(len(out)):  # a Python loop, so that Ctrl-C is handled between pairs
            self.iterations.append(
                kernel(
                    self._w,
                    frames[t : t + 2],
                    t > 0,
                    t % 2 == 1,
                    out[t],
                    layout.sizes,
                    layout.at,
                    *map(float, (p.tau, p.lambda_, p.theta, p.epsilon, p.scale_step, p.settled_px)),
                    p.warps,
                    p.outer_iterations,
                    p.inner_iterations,
                    p.median,
                )
            )
        return out

    def _prepared(self, height: int, width: int) -> _Layout:
        if self._layout is None or tuple(self._layout.sizes[0]) != (height, width):
            layout = _Layout.of(level_sizes(height, width, self.params))
            if layout.floats > self._w.size:
                buffer = np.zeros(layout.floats + LANES, np.float32)
                start = -buffer.ctypes.data // buffer.itemsize % LANES  # on a cache line: a vector never straddles two
                self._w = buffer[start : start + layout.floats]
            table = cubic_table().ravel()
            self._w[layout.at[pair.TABLE] :][: table.size] = table
            self._layout = layout
        return self._layout


def level_sizes(height: int, width: int, params: TVL1Params) -> list[tuple[int, int]]:
    """(height, width) of every pyramid level, the finest first."""
    sizes = [(height, width)]
    for _ in range(params.scales - 1):
        below = round(sizes[-1][0] * params.scale_step), round(sizes[-1][1] * params.scale_step)
        if min(below) < _SMALLEST_SIDE:
            break
        sizes.append(below)
    return sizes


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Positions in the workspace: offsets in floats, all multiples of 16."""

    sizes: np.ndarray  # (levels, 2) int64
    at: np.ndarray  # (BUFFERS,) int64, by the constants of pair
    floats: int

    @classmethod
    def of(cls, sizes: list[tuple[int, int]]) -> _Layout:
        height, width = sizes[0]
        row = -(-width // LANES) * LANES
        plane = row * (height + 2)  # with a row above and one below
        pyramid = sum(h * -(-w // LANES) * LANES for h, w in sizes)
        lengths = {
            pair.TABLE: cubic_table().size,
            pair.PYRAMID_A: pyramid,
            pair.PYRAMID_B: pyramid,
            pair.FLOW_A: 2 * plane,
            pair.FLOW_B: 2 * plane,
            pair.START: 2 * plane,
            pair.DUAL: 4 * plane,
            pair.DATA: 4 * plane,
            pair.INTERLEAVED: 4 * (height + 2 * MARGIN) * (width + 2 * MARGIN),
            pair.SCRATCH: 16 * row + 20 * LANES,
        }
        at, end = np.zeros(pair.BUFFERS, np.int64), 0
        for buffer, length in lengths.items():
            at[buffer] = end
            end += -(-length // LANES) * LANES + 4 * LANES  # kernels may touch four vectors past the end
        return cls(sizes=np.array(sizes, np.int64), at=at, floats=end)
