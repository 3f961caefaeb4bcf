"""Knobs of preprocessing. What changes stored bytes is in ``StoredConfig``, which is hashed."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """Everything that changes the bytes of a sample. Its hash is in every record."""

    short_side: int = 256
    """Short side of stored frames in pixels (even numbers only; the long side follows, rounded to even)."""
    fps: float = 0.0
    """Constant frame rate of stored videos. 0 keeps the source's own: its usual rate where 90 % of the intervals
    between pictures agree (a dropped picture is filled by its neighbour), else its average rate.
    """
    modalities: tuple[Literal["rgb", "flow", "diff"], ...] = ("rgb", "flow", "diff")
    flow_engine: Literal["opencv", "numba", "torch"] = "numba"
    """Which implementation of TV-L1: OpenCV's, ours for the CPU, or ours for the GPU. Commands set it by
    --flow-engine.
    """
    flow_mode: Literal["tvl1", "tvl1-fast"] = "tvl1"
    """tvl1: the exact algorithm. tvl1-fast: faster where little moves, and less exact there, labelled so in every
    record.
    """
    flow_bound: float = 20.0
    """Flow is clipped to +-bound pixels before it is quantised to 8 bits."""
    gop: int = 16
    """Frames from one keyframe to the next; groups are closed."""
    crf: int = 20
    """VP9 quality (0 best, 63 worst)."""
    max_frames: int = 0
    """Longest sample in frames; longer sources are cut. 0: no limit."""
    square_pixels: bool = False
    """Stretch pictures whose pixels are not square (anamorphic video) to the shape in which they are shown. Without it
    they are stored as they are coded, and the record's sar says how wide a pixel is.
    """

    def __post_init__(self) -> None:
        require(
            self.short_side >= 16 and self.short_side % 2 == 0,
            "stored.short_side",
            self.short_side,
            "must be even and at least 16",
        )
        require(self.fps >= 0, "stored.fps", self.fps, "must be 0 (keep) or positive")
        require("rgb" in self.modalities, "stored.modalities", self.modalities, "rgb is always stored")
        require(
            len(set(self.modalities)) == len(self.modalities),
            "stored.modalities",
            self.modalities,
            "name each modality once",
        )
        require(self.flow_bound > 0, "stored.flow_bound", self.flow_bound, "must be positive")
        require(self.gop >= 1, "stored.gop", self.gop, "must be at least 1")
        require(0 <= self.crf <= 63, "stored.crf", self.crf, "must be in 0..63")
        require(self.max_frames >= 0, "stored.max_frames", self.max_frames, "must be 0 (no limit) or positive")
