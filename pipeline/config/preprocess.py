"""Knobs of preprocessing. What changes stored bytes is in ``StoredConfig``, which is hashed."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require

_MAX_SHORT_SIDE = 4320  # of 8K video
_MAX_FPS = 1000.0
_MAX_GOP = 10_000  # a clip decodes up to so many frames for its first one


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
            16 <= self.short_side <= _MAX_SHORT_SIDE and self.short_side % 2 == 0,
            "stored.short_side",
            self.short_side,
            f"must be even and in 16..{_MAX_SHORT_SIDE}",
        )
        require(0 <= self.fps <= _MAX_FPS, "stored.fps", self.fps, f"must be 0 (keep) or positive, up to {_MAX_FPS}")
        require("rgb" in self.modalities, "stored.modalities", self.modalities, "rgb is always stored")
        require(
            len(set(self.modalities)) == len(self.modalities),
            "stored.modalities",
            self.modalities,
            "name each modality once",
        )
        most_px = self.short_side * 10  # the long side is at most ten times the short one
        require(
            0 < self.flow_bound <= most_px,
            "stored.flow_bound",
            self.flow_bound,
            f"must be positive, and at most {most_px} px, which no motion exceeds",
        )
        require(1 <= self.gop <= _MAX_GOP, "stored.gop", self.gop, f"must be in 1..{_MAX_GOP}")
        require(0 <= self.crf <= 63, "stored.crf", self.crf, "must be in 0..63")
        require(self.max_frames >= 0, "stored.max_frames", self.max_frames, "must be 0 (no limit) or positive")
