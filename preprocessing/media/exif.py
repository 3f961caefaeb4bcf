"""How a picture has to be turned to be shown upright, from the Exif block of a JPEG, PNG or WebP file.

PyAV gives a picture's rotation and not whether it is mirrored, so the one tag that says both is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from preprocessing.media.upright import Orientation

JPEG, PNG, RIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
_ORIENTATION, _SHORT = 0x0112, 3  # tag and type (TIFF 6.0)
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_UPRIGHT = Orientation()
_TURNS = {
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}
"""By the tag's value; 1 and all others are upright."""


def exif_orientation(data: bytes) -> Orientation:
    """What the Exif block of a picture file says; upright where there is none or it is damaged."""
    try:
        for block in _exif_blocks(data):
            return _TURNS.get(_tag(block.removeprefix(b"Exif\0\0")), _UPRIGHT)
    except struct.error:  # a block that ends too early
        pass
    return _UPRIGHT


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    if data.startswith(JPEG):
        at = 2
        while data[at : at + 1] == b"\xff":
            marker, length = struct.unpack_from(">xBH", data, at)
            if marker == _START_OF_SCAN or length < 2:
                return
            if marker == _APP1 and data.startswith(b"Exif\0\0", at + 4):
                yield data[at + 4 : at + 2 + length]
            at += 2 + length
    elif data.startswith(PNG):
        at = len(PNG)
        while at + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"eXIf":
                yield data[at + 8 : at + 8 + length]
            at += length + 12
    elif data.startswith(RIFF):
        at = 12
        while at + 8 <= len(data):
            kind, length = struct.unpack_from("<4sI", data, at)
            if kind == b"EXIF":
                yield data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2


def _tag(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF block; 0 where there is none. Raises struct.error."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for number in range(entries):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * number)
        if tag == _ORIENTATION:
            return value if kind == _SHORT else 0
    return 0
