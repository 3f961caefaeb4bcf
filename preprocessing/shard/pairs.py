"""Flow and frame differences of one clip, block by block, as the 8-bit codes that are stored."""

from __future__ import annotations

import numpy as np

from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import dequantise_flow, quantise_diff, quantise_flow
from preprocessing.flow.base import FlowEngine, to_gray
from preprocessing.shard.work import StageTimes


class PairStage:
    """Flow and differences of one clip, block after block; keeps the last frame of a block for the first pair of
    the next.
    """

    def __init__(self, engine: FlowEngine | None, stored: StoredConfig, times: StageTimes) -> None:
        self._engine, self._stored, self._times = engine, stored, times
        self._last_rgb: np.ndarray | None = None
        self._last_gray: np.ndarray | None = None
        # One number a pair, so that a clip's mean does not depend on how it was cut into blocks.
        self.saturation: list[float] = []
        self.error_px: list[float] = []
        self.mean_px: list[float] = []

    def next(self, frames_rgb_THWC: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(flow codes (N, 2 H, W), difference codes (N, H, W, 3)) of the pairs that end in these frames; None where
        not stored.
        """
        flow = diff = None
        if self._engine is not None:
            with self._times.measure("flow_s"):
                gray = to_gray(frames_rgb_THWC)
                window = gray if self._last_gray is None else np.concatenate([self._last_gray[None], gray])
                self._last_gray = gray[-1]
                if len(window) > 1:
                    flow = self._codes(self._engine.flow(window))
        if "diff" in self._stored.modalities:
            with self._times.measure("encode_s"):
                window = (
                    frames_rgb_THWC
                    if self._last_rgb is None
                    else np.concatenate([self._last_rgb[None], frames_rgb_THWC])
                )
                self._last_rgb = frames_rgb_THWC[-1]
                diff = quantise_diff(window) if len(window) > 1 else None
        return flow, diff

    def _codes(self, flow_px: np.ndarray) -> np.ndarray:
        bound = self._stored.flow_bound
        codes = quantise_flow(flow_px, bound)
        for pair, code in zip(flow_px, codes, strict=True):
            distance = np.subtract(dequantise_flow(code, bound), pair)
            self.error_px.append(float(np.abs(distance, out=distance).mean()))
            self.saturation.append(np.count_nonzero(np.abs(pair, out=distance) > bound) / pair.size)
            squares = np.square(pair, out=distance)
            self.mean_px.append(float(np.sqrt(np.add(squares[0], squares[1], out=squares[0]), out=squares[0]).mean()))
        self._times.pairs += len(flow_px)
        return codes
