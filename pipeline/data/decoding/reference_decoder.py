"""The reference implementation as a loader's decoder (``data.decoder = reference``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.base import Row
from pipeline.data.decoding.pictures import member_size
from pipeline.data.decoding.reference import decode_frames, prepare_frames, prepare_rgb
from pipeline.data.decoding.stacks import empty_clips
from pipeline.dataset.sample import stored_modalities


class ReferenceDecoder:
    """The oracle as a loader's backend: clips one by one, ``threads`` at a time (FFmpeg and torch release the GIL)."""

    def __init__(
        self,
        modalities: Sequence[str],
        clip: ClipConfig,
        flow_bound_px: float,
        *,
        threads: int = 1,
        channels_last: bool = False,
    ) -> None:
        self._modalities, self._clip, self._bound, self._last = tuple(modalities), clip, flow_bound_px, channels_last
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    def _read(self, row: Row) -> dict[str, np.ndarray]:
        members, plan, size = row
        windows = {
            m: plan.rgb_window(self._modalities) if m == "rgb" else plan.motion_window
            for m in stored_modalities(self._modalities)
        }
        return {m: decode_frames(members[m], m, window, member_size(m, size)) for m, window in windows.items()}

    def _row(self, row: Row) -> dict[str, torch.Tensor]:
        plan, frames = row[1], self._read(row)
        clips = prepare_rgb(self._modalities, frames["rgb"], plan, self._clip) if "rgb" in frames else {}
        stored = {m: prepare_frames(m, frames[m], plan, self._clip, self._bound) for m in frames if m != "rgb"}
        return {**clips, **stored}

    def decode(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Rows of (members by stored modality, plan, stored size) to (rows, F, C, crop, crop) float32, motion not yet
        stacked.

        Raises:
            ReciprocalError: a video cannot be decoded, is shorter than its record says or has pictures of another size.
        """
        clips = list(self._pool.map(self._row, rows) if self._pool else map(self._row, rows))
        out = {}
        for m in self._modalities:
            frames, channels = clips[0][m].shape[:2]
            out[m], _ = empty_clips(len(rows), frames, channels, self._clip.crop, self._last)
            for place, clip in zip(out[m], clips, strict=True):
                place.copy_(clip[m])
        return out

    def submit(self, rows: Sequence[Row]) -> Callable[[], dict[str, torch.Tensor]]:
        """``decode(rows)``, when the result is called."""
        return lambda: self.decode(rows)

    def decode_share(self, rows: Sequence[Row]) -> float:
        """Share of the time of ``decode(rows)`` that goes into decoding videos, in 0..1; the rest is crop, resize,
        colour, normalising.
        """
        began_s = time.perf_counter()
        for row in rows:
            self._read(row)
        decode_s, began_s = time.perf_counter() - began_s, time.perf_counter()
        for row in rows:
            self._row(row)
        return min(1.0, decode_s / (time.perf_counter() - began_s))

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
