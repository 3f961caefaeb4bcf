"""The sample table of the MP4 files that preprocessing writes, read directly.

libavformat decodes a picture to learn what is in a file: on clips of some dozen frames that is a seventh of the whole
decoding. Only the plain layout is read here; anything else is left to libavformat.
"""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

_CODECS = {b"vp09": "vp9"}
_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")


@dataclasses.dataclass(frozen=True)
class Track:
    """One video track, a frame a packet, in the order of display."""

    codec: str
    """FFmpeg's name of the decoder."""
    offsets: np.ndarray
    sizes: np.ndarray
    keyframes: np.ndarray
    """Ascending numbers of the frames that decoding can start at; the first is 0."""


def read_track(data: bytes) -> Track | None:
    """The only track of a file whose packets need no reordering; None where the file is anything else, damaged ones
    included.
    """
    try:
        boxes = _boxes(memoryview(data), 0, len(data))
        if boxes is None:
            return None
        codec = _CODECS.get(bytes(boxes[b"stsd"][12:16]))
        edit = boxes.get(b"elst")
        if codec is None or b"ctts" in boxes or b"moof" in boxes or (edit is not None and not _whole(edit)):
            return None
        sizes = _sizes(boxes[b"stsz"], len(data))
        offsets = _offsets(boxes, sizes)
        sync = boxes.get(b"stss")
        keyframes = np.arange(len(sizes)) if sync is None else _words(sync, 4, 1) - 1
    except (KeyError, ValueError, IndexError, struct.error):
        return None
    right = (
        len(sizes)
        and len(keyframes)
        and keyframes[0] == 0
        and keyframes[-1] < len(sizes)
        and (np.diff(keyframes) > 0).all()
    )
    inside = right and offsets.min() >= 0 and (offsets + sizes).max() <= len(data)
    return Track(codec, offsets, sizes, keyframes) if inside else None


def _boxes(data: memoryview, start: int, end: int) -> dict[bytes, memoryview] | None:
    """Contents of all boxes by type, nested ones included; None where a type comes twice (several tracks, say)."""
    found: dict[bytes, memoryview] = {}
    while start + 8 <= end:
        size, kind, header = struct.unpack_from(">I", data, start)[0], bytes(data[start + 4 : start + 8]), 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end:
            return None
        inner = _boxes(data, start + header, start + size) if kind in _NESTED else {}
        if inner is None or (kind != b"free" and kind in found) or inner.keys() & found.keys():
            return None
        found.update(inner)
        found[kind] = data[start + header : start + size]
        start += size
    return found


def _words(box: memoryview, at: int, columns: int, kind: str = ">u4") -> np.ndarray:
    """(count, columns) int64 of a table whose count stands at ``at``; (count,) for one column."""
    (count,) = struct.unpack_from(">I", box, at)
    table = np.frombuffer(box, kind, count * columns, at + 4).astype(np.int64)
    return table if columns == 1 else table.reshape(count, columns)


def _whole(edit: memoryview) -> bool:
    """Whether an edit list shows the track from its first frame on, once, at normal speed."""
    version, (count,) = edit[0], struct.unpack_from(">I", edit, 4)
    media_time, rate = struct.unpack_from(">qi", edit, 16) if version else struct.unpack_from(">ii", edit, 12)
    return count == 1 and media_time == 0 and rate == 1 << 16


def _sizes(box: memoryview, file_bytes: int) -> np.ndarray:
    (same,) = struct.unpack_from(">I", box, 4)
    if same:
        (count,) = struct.unpack_from(">I", box, 8)
        if count * same > file_bytes:  # a count alone may ask for any memory
            raise ValueError("more samples than bytes")
        return np.full(count, same, np.int64)
    return _words(box, 8, 1)


def _offsets(boxes: dict[bytes, memoryview], sizes: np.ndarray) -> np.ndarray:
    """Where each sample lies: samples of a chunk follow each other; a row of stsc holds until the next row's first
    chunk.
    """
    chunks = _words(boxes[b"stco"], 4, 1) if b"stco" in boxes else _words(boxes[b"co64"], 4, 1, ">u8")
    runs = _words(boxes[b"stsc"], 4, 3)
    lengths = np.diff(np.append(runs[:, 0], len(chunks) + 1))
    counts = np.repeat(runs[:, 1], lengths)
    if len(counts) != len(chunks) or counts.sum() != len(sizes) or (counts < 1).any():
        raise ValueError("the tables of samples and chunks disagree")
    before = np.cumsum(sizes) - sizes
    first = np.cumsum(counts) - counts
    return np.repeat(chunks - before[first], counts) + before
