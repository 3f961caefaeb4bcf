"""Decoding one stored video out of a shard's tar, frame by frame: a two-hour sample takes no more memory than a short
one.
"""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipeline.common.media import open_stored
from pipeline.dataset.sample import dequantise_flow
from pipeline.dataset.shards import Member
from preprocessing.media.luma import luma

_THUMB_PX = 32  # short side on which contents are compared: coding noise averages out, motion does not
_THUMB_FRAMES = 256  # contents are compared over the first of them; counts, sizes and times over all
_FLOW_STEP = 4  # every 4th row and column is enough for a mean


class FileSection(io.RawIOBase):
    """Read-only view of ``size`` bytes of a file, starting at ``offset``."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = path.open("rb"), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """What decoding a member gave: times in ticks of ``time_base`` s, sizes (width, height), thumbnails of
    the brightness.
    """

    ticks: np.ndarray  # (T,) int64
    time_base: Fraction
    rate: Fraction
    sizes: frozenset[tuple[int, int]]
    thumbs: np.ndarray  # (min(T, 256), h, w) float32, luma levels as stored; none of flow
    mean_length_px: float | None = None  # of flow

    def time_s(self, index: int) -> Fraction:
        """Time stamp of a frame, exact."""
        return int(self.ticks[index]) * self.time_base


def decode_member(path: Path, member: Member, size: tuple[int, int], flow_bound_px: float | None = None) -> Video:
    """Decode every frame of a member of a local tar, on one thread.

    Args:
        size: (width, height) by the record; larger pictures are not decoded.
        flow_bound_px: of a flow member; None for the others.

    Raises:
        WrongPictureSize: it announces pictures of another size.
        av.FFmpegError: FFmpeg cannot read it, or a picture on the way is too large.
        IndexError: no video stream.
        ValueError: no frame, or a frame without a time stamp.
    """
    ticks: list[int] = []
    sizes: set[tuple[int, int]] = set()
    thumbs: list[np.ndarray] = []
    lengths: list[float] = []
    with (
        FileSection(path, member.offset, member.size) as section,
        open_stored(section, *size) as container,
    ):
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            if frame.pts is None:
                raise ValueError(f"frame {len(ticks)} has no time stamp")
            ticks.append(frame.pts)
            sizes.add((frame.width, frame.height))
            if flow_bound_px is not None:
                lengths.append(_mean_length_px(luma(frame), flow_bound_px))
            elif len(thumbs) < _THUMB_FRAMES and len(sizes) == 1:
                thumbs.append(_thumb(frame))
        rate, time_base = stream.average_rate or Fraction(0), stream.time_base or Fraction(0)
    if not ticks:
        raise ValueError("it has no frame")
    pictures = np.stack(thumbs) if thumbs else np.zeros((0, 0, 0), np.float32)
    mean = sum(lengths) / len(lengths) if lengths else None
    return Video(
        ticks=np.array(ticks, np.int64),
        time_base=time_base,
        rate=rate,
        sizes=frozenset(sizes),
        thumbs=pictures,
        mean_length_px=mean,
    )


def _mean_length_px(codes: np.ndarray, bound_px: float) -> float:
    rows = len(codes) // 2
    u, v = dequantise_flow(
        np.concatenate([half[::_FLOW_STEP, ::_FLOW_STEP] for half in (codes[:rows], codes[rows : 2 * rows])]), bound_px
    )
    return float(np.mean(np.hypot(u, v)))


def _thumb(frame: av.VideoFrame) -> np.ndarray:
    plane = luma(frame)
    shrink = max(1, min(plane.shape) // _THUMB_PX)
    return cv2.resize(plane, (plane.shape[1] // shrink, plane.shape[0] // shrink), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
