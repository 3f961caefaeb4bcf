"""TV-L1 engines side by side: the same pairs of real frames, the reference's flow against the others', and their
times.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from preprocessing.flow.base import FlowEngine
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.pairs import Pairs
from preprocessing.flow.params import TVL1Params


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far an engine's flow is from the reference's. EPE: length of the difference vector, in pixels."""

    mean_epe: float
    within_0p1: float
    """Share of pixels with EPE <= 0.1 px."""
    over_1px: float
    worst_pair_epe: float
    """Largest mean EPE of a pair."""

    @classmethod
    def of(cls, flow_N2HW: np.ndarray, reference_N2HW: np.ndarray) -> Agreement:
        epe = np.linalg.norm(flow_N2HW.astype(np.float64) - reference_N2HW, axis=1)
        return cls(
            float(epe.mean()), float((epe <= 0.1).mean()), float((epe > 1).mean()), float(epe.mean((1, 2)).max())
        )

    def meets(self, fast: bool) -> bool:
        """Whether it is as close as its mode must be: the exact one, or one labelled as faster."""
        if fast:
            return self.mean_epe <= 0.10 and self.within_0p1 >= 0.90
        return (
            self.mean_epe <= 0.05 and self.within_0p1 >= 0.94 and self.over_1px <= 0.005 and self.worst_pair_epe <= 0.2
        )


@dataclasses.dataclass(frozen=True)
class Timed:
    """Flow of every pair (N, 2, H, W) and the seconds each took (N,): the least of the repetitions.

    ``seconds`` is time of the calling thread on a core, which is what flow costs, and which a busy machine does not
    lengthen as it does time on the wall, the more the longer a pair takes; on a GPU it is time on the wall.
    """

    flow_N2HW: np.ndarray
    seconds: np.ndarray
    wall_seconds: np.ndarray
    iterations: float | None
    """Mean over pairs, in iterations over the whole picture; None where the engine does not count."""


def time_engines(
    pairs: Pairs, engines: Mapping[str, FlowEngine], repeat: int, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Timed]:
    """Run every engine on every pair, engine after engine within a pair, so that other load on the machine hits all
    alike.
    """
    flows: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    seconds = {name: np.full((2, len(pairs.gray_N2HW)), np.inf) for name in engines}
    iterations: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.flow(pairs.gray_N2HW[0])  # compiles, and allocates its memory
    for n, pair in enumerate(pairs.gray_N2HW):
        for k in range(repeat):
            for name, engine in engines.items():
                core, wall = time.thread_time(), time.perf_counter()
                flow = engine.flow(pair)
                taken = time.thread_time() - core, time.perf_counter() - wall
                seconds[name][:, n] = np.minimum(seconds[name][:, n], taken)
                if k == 0:
                    flows[name].append(flow[0])
                    iterations[name] += getattr(engine, "iterations", [])
        progress(n + 1)
    timed = {}
    for name, engine in engines.items():
        core_s, wall_s = seconds[name]
        counted = float(np.mean(iterations[name])) if iterations[name] else None
        timed[name] = Timed(np.stack(flows[name]), wall_s if on_gpu(engine) else core_s, wall_s, counted)
    return timed


def on_gpu(engine: FlowEngine) -> bool:
    """Whether the engine computes on a GPU."""
    device = getattr(engine, "device", None)
    return device is not None and device.type == "cuda"


@dataclasses.dataclass(frozen=True)
class Exactness:
    """The algorithm itself, before small differences grow: fixed iterations, no stop test, against OpenCV.

    Limits: ``max_1_scale`` (1 scale, 1 warp, 10 iterations) at most 1e-5 px, ``mean_5_scales`` (the same) at most 1e-4
    px.
    """

    max_1_scale: float
    mean_5_scales: float

    @property
    def holds(self) -> bool:
        return self.max_1_scale <= 1e-5 and self.mean_5_scales <= 1e-4


def exactness(make: Callable[[TVL1Params], FlowEngine], gray_N2HW: Sequence[np.ndarray] | np.ndarray) -> Exactness:
    """The worst pair's figures of an engine that ``make`` builds."""
    differences = []
    for scales in (1, 5):
        params = TVL1Params(epsilon=0.0, scales=scales, warps=1, outer_iterations=1, inner_iterations=10)
        ours, reference = make(params), OpenCVTVL1(params)
        differences.append([np.abs(ours.flow(pair) - reference.flow(pair)) for pair in gray_N2HW])
    return Exactness(float(max(d.max() for d in differences[0])), float(max(d.mean() for d in differences[1])))
