"""Sizes of pictures as the headers of VP9 frames say them; nothing is decoded.

A keyframe says its size, and any frame after it may say another one, whatever the container announces. The fields are
those of the VP9 bitstream specification (version 0.7), sections 6.2 and 7.2, and annex B for superframes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SYNC = 0x498342
_SRGB = 7
_SUPERFRAME = 0b110
_HEADER_BYTES = 24  # more than all fields up to the size


_USUAL_BYTES = 9
_PLACES = 256 ** np.arange(4, -1, -1)


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("a VP9 frame ends in its header")
        return self._value >> self._left & (1 << count) - 1


def other_size(video: bytes, offsets: np.ndarray, sizes: np.ndarray, width: int, height: int) -> tuple[int, int] | None:
    """The first size of a picture, (width, height), that is not the one given; None where all are of this size.

    Args:
        offsets, sizes: of the packets in ``video``, (N,) int64; all inside.

    Raises:
        ValueError: this is not VP9.
    """
    for n in np.flatnonzero(~_usual(np.frombuffer(video, np.uint8), offsets, sizes, width, height)):
        start = int(offsets[n])
        for found in packet_sizes(video[start : start + int(sizes[n])]):
            if found != (width, height):
                return found
    return None


def _usual(data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N,) bool: packets that are surely one frame of this size, which nearly all are: profile 0, shown; a keyframe
    that says the size, or a frame that takes it from another. Reading bit by bit would take a hundred times as long.
    """
    usual = sizes >= _USUAL_BYTES
    heads = data[offsets[usual][:, None] + np.arange(_USUAL_BYTES)].astype(np.int64)
    first = heads[:, 0]
    after, colour = (heads[:, i : i + 5] @ _PLACES for i in (1, 4))  # 40 bits each
    references = np.where(first & 1, after >> 17, after >> 15) & 0b111
    says = (
        (after >> 16 == _SYNC) & (colour >> 37 != _SRGB) & (colour >> 4 & 0xFFFFFFFF == (width - 1) << 16 | height - 1)
    )
    good = (first & 0b11111010 == 0b10000010) & np.where(first & 0b100, references != 0, says)
    usual[usual] = good & (data[offsets[usual] + sizes[usual] - 1] >> 5 != _SUPERFRAME)
    return usual


def packet_sizes(packet: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of each frame of a packet that says its size; the others have that of a frame before them.

    Raises:
        ValueError: this is not VP9.
    """
    if not packet:
        raise ValueError("an empty packet")
    last = packet[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = packet[-(2 + count * width) :]
    if last >> 5 != _SUPERFRAME or index[0] != last:
        found = _frame_size(packet[:_HEADER_BYTES])
        if found:
            yield found
        return
    at = 0
    for n in range(count):
        length = int.from_bytes(index[1 + n * width : 1 + (n + 1) * width], "little")
        found = _frame_size(packet[at : at + min(length, _HEADER_BYTES)]) if length else None
        if found:
            yield found
        at += length


def _frame_size(header: bytes) -> tuple[int, int] | None:
    bits = _Bits(header)
    if bits.take(2) != 2:
        raise ValueError("not a VP9 frame")
    profile = bits.take(1) | bits.take(1) << 1
    if profile == 3:
        bits.take(1)
    if bits.take(1):  # shows a frame that is there already
        return None
    inter, shown, resilient = bits.take(1), bits.take(1), bits.take(1)
    if not inter:
        _sync(bits)
        _skip_colour(bits, profile)
        return _size(bits)
    intra_only = 0 if shown else bits.take(1)
    if not resilient:
        bits.take(2)
    if intra_only:
        _sync(bits)
        if profile:
            _skip_colour(bits, profile)
        bits.take(8)
        return _size(bits)
    bits.take(8 + 3 * 4)  # which references it replaces and uses
    if any(bits.take(1) for _ in range(3)):  # the size of a reference, up to the first that it has
        return None
    return _size(bits)


def _sync(bits: _Bits) -> None:
    if bits.take(24) != _SYNC:
        raise ValueError("a VP9 frame without its sync code")


def _skip_colour(bits: _Bits, profile: int) -> None:
    if profile >= 2:
        bits.take(1)
    if bits.take(3) != _SRGB:
        bits.take(1)
        if profile & 1:
            bits.take(3)
    elif profile & 1:
        bits.take(1)


def _size(bits: _Bits) -> tuple[int, int]:
    return bits.take(16) + 1, bits.take(16) + 1
