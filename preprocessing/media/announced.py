"""Where a file says that it ends, so that one whose rest is missing is noticed.

One rule for all containers: a length in the header or in the index is compared with where the pictures end
(``preprocessing.media.decode``). A file whose container announces nothing may be cut anywhere: its sample says so,
unless a mark at its end shows that it is whole.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

_HEAD, _TAIL = 1 << 16, 1 << 16  # bytes in which headers and end marks are looked for
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV_DURATION = b"\x00\x08duration\x00"
_NOTHING_LIKE_IT_S = 1e7  # a header with a longer length than four months is no header


@dataclasses.dataclass(frozen=True)
class Announced:
    """The end of a file by its own account."""

    end_s: float | None
    """In seconds of its time stamps; None where nothing is announced."""
    of_video: bool = True
    """Whether that is the end of the video, or of the longest stream."""
    whole: bool = True
    """Whether nothing is missing as far as header, index or end mark can tell; False where there are none."""


def announced_end(container: InputContainer, stream: VideoStream, source: str | Path | bytes) -> Announced:
    """What the container says about the end of ``stream``. FFmpeg's own guesses from file size and bit rate, and from
    what is found at the end of the file, do not count.
    """
    kind = container.format.name.split(",")[0]
    found = Announced(None, whole=False)
    if kind == "mov":
        found = _of_mov(stream, source)
    elif kind == "avi" and stream.time_base:  # of a cut file FFmpeg shortens the duration, but not this
        found = Announced(stream.frames * float(stream.time_base))
    elif kind == "matroska":
        found = _of_matroska(container, stream, _matroska_header_s(_part_of(source, 0, _HEAD)))
    elif kind == "flv":
        head = _part_of(source, 0, _HEAD)
        at = head.find(_FLV_DURATION) + len(_FLV_DURATION)
        if len(_FLV_DURATION) <= at <= len(head) - 8:
            found = Announced(struct.unpack_from(">d", head, at)[0], of_video=False)
    elif kind == "asf":
        found = _of_asf(_part_of(source, 0, _HEAD))
    if found.end_s is not None and 0 < found.end_s < _NOTHING_LIKE_IT_S:
        return found
    return Announced(None, whole=_has_end_mark(kind, source))


def _of_mov(stream: VideoStream, source: str | Path | bytes) -> Announced:
    """The duration that the edit list shows, but not more than the index has pictures for. A fragmented file has no
    index: its fragments are read one by one, and only a table of them (``sidx``, ``mfra``) shows that they are all
    there.
    """
    if stream.duration is None or stream.time_base is None:
        return Announced(None)
    tick_s = float(stream.time_base)
    length = stream.duration
    if stream.frames:
        entries = stream.index_entries
        shown = [number for number, entry in enumerate(entries) if not entry.is_discard]
        if len(shown) > 1:
            # The track's duration may count an empty edit that its pictures do not have.
            spans = entries[shown[-1]].timestamp - entries[shown[0]].timestamp
            length = min(length, spans + 2 * spans / (shown[-1] - shown[0]))
    ends = _part_of(source, 0, _HEAD) + _part_of(source, -_TAIL, _TAIL)
    whole = stream.frames > 0 or re.search(rb"sidx|mfra", ends) is not None
    return Announced(((stream.start_time or 0) + length) * tick_s, whole=whole)


def _of_matroska(container: InputContainer, stream: VideoStream, header_s: float) -> Announced:
    # FFmpeg gives streams a duration here only where it guesses from the bit rate, or found too few time stamps.
    end_s = container.duration / av.time_base if container.duration and stream.duration is None else header_s
    if not end_s:
        return Announced(None)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip())
    if tag is None:
        return Announced(end_s, of_video=False)
    hours, minutes, seconds = (float(part) for part in tag.groups())
    return Announced(min(end_s, 3600 * hours + 60 * minutes + seconds))  # copied tags may be those of a longer file


def _matroska_header_s(head: bytes) -> float:
    """The duration that the header's segment information gives (RFC 9559, 5.1.2); 0 where there is none."""
    info = head[max(0, head.find(b"\x15\x49\xa9\x66")) :][:512]
    found = re.search(rb"\x44\x89(?:\x88(.{8})|\x84(.{4}))", info, re.DOTALL)
    if found is None or b"\x15\x49\xa9\x66" not in head:
        return 0.0
    scale = re.search(rb"\x2a\xd7\xb1([\x81-\x84])(.{1,4})", info, re.DOTALL)
    tick_ns = int.from_bytes(scale[2][: scale[1][0] & 15], "big") if scale else 1_000_000
    (ticks,) = struct.unpack(">d" if found[1] else ">f", found[1] or found[2])
    return ticks * tick_ns / 1e9


def _of_asf(head: bytes) -> Announced:
    """FFmpeg ignores the header's length where the file has another size than the header says."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return Announced(None)
    play_100ns, _, preroll_ms, flags = struct.unpack_from("<QQQI", head, at + 64)
    return Announced(None if flags & 1 else play_100ns / 1e7 - preroll_ms / 1e3, of_video=False)


def _has_end_mark(kind: str, source: str | Path | bytes) -> bool:
    tail = _part_of(source, -_TAIL, _TAIL)
    if kind == "ogg":
        return re.search(rb"OggS\x00[\x04-\x07]", tail) is not None
    if kind == "mpeg":
        return b"\x00\x00\x01\xb9" in tail[-4096:]
    return kind == "gif" and tail.rstrip(b"\x00").endswith(b"\x3b")


def _part_of(source: str | Path | bytes, start: int, size: int) -> bytes:
    """``size`` bytes from ``start``, which counts from the end where it is negative; fewer if there are fewer."""
    if isinstance(source, bytes):
        return source[start:][:size]
    with Path(source).open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end + start if start < 0 else start))
        return file.read(size)
