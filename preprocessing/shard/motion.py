"""Flow and frame differences of one clip, block by block, as the 8-bit codes that are stored.

Both keep the last frame of a block for the first pair of the next.
"""

from __future__ import annotations

import numpy as np

from pipeline.dataset.sample import dequantise_flow, quantise_diff, quantise_flow
from preprocessing.flow.base import FlowEngine, to_gray
from preprocessing.shard.work import StageTimes


class DifferenceStage:
    """Frame differences of one clip."""

    def __init__(self) -> None:
        self._last_rgb: np.ndarray | None = None

    def next(self, frames_rgb_THWC: np.ndarray) -> np.ndarray | None:
        """Codes (N, H, W, 3) of the pairs that end in these frames; None where there is no pair yet."""
        window = frames_rgb_THWC
        if self._last_rgb is not None:
            window = np.concatenate([self._last_rgb[None], frames_rgb_THWC])
        self._last_rgb = frames_rgb_THWC[-1]
        return quantise_diff(window) if len(window) > 1 else None


class FlowStage:
    """Optical flow of one clip, and how well its codes represent it."""

    def __init__(self, engine: FlowEngine, flow_bound: float, times: StageTimes) -> None:
        self._engine, self._bound, self._times = engine, flow_bound, times
        self._last_gray: np.ndarray | None = None
        # One number a pair, so that a clip's mean does not depend on how it was cut into blocks.
        self.saturation: list[float] = []
        self.error_px: list[float] = []
        self.mean_px: list[float] = []

    def next(self, frames_rgb_THWC: np.ndarray) -> np.ndarray | None:
        """Codes (N, 2 H, W), u above v, of the pairs that end in these frames; None where there is no pair yet."""
        with self._times.measure("flow_s"):
            gray = to_gray(frames_rgb_THWC)
            window = gray if self._last_gray is None else np.concatenate([self._last_gray[None], gray])
            self._last_gray = gray[-1]
            return self._codes(self._engine.flow(window)) if len(window) > 1 else None

    def quality(self) -> dict[str, float]:
        """Means over the clip's pairs, by field of ``SampleRecord``; empty where there is no pair."""
        if not self.mean_px:
            return {}
        # Rounded: the last bits of a mean depend on the machine's vector width, and the record's bytes must not.
        return {
            "flow_saturation": round(float(np.mean(self.saturation)), 6),
            "flow_error_px": round(float(np.mean(self.error_px)), 5),
            "flow_mean_px": round(float(np.mean(self.mean_px)), 4),
        }

    def _codes(self, flow_px: np.ndarray) -> np.ndarray:
        bound = self._bound
        codes = quantise_flow(flow_px, bound)
        for pair, code in zip(flow_px, codes, strict=True):
            distance = np.subtract(dequantise_flow(code, bound), pair)
            self.error_px.append(float(np.abs(distance, out=distance).mean()))
            self.saturation.append(np.count_nonzero(np.abs(pair, out=distance) > bound) / pair.size)
            squares = np.square(pair, out=distance)
            self.mean_px.append(float(np.sqrt(np.add(squares[0], squares[1], out=squares[0]), out=squares[0]).mean()))
        self._times.pairs += len(flow_px)
        return codes
