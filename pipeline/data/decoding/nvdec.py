"""What the card's video decoder can do, asked of NVIDIA's driver library."""

from __future__ import annotations

import ctypes
import dataclasses
import glob

CODECS = {"h264": 4, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}  # cudaVideoCodec
_CHROMA_420 = 1
_PLACES = ("libnvcuvid.so.1", "/usr/local/nvidia/lib*/libnvcuvid.so*", "/usr/lib/*/libnvcuvid.so*")


class _Caps(ctypes.Structure):  # CUVIDDECODECAPS of cuviddec.h
    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bit_depth_minus_8", ctypes.c_uint),
        ("reserved_in", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte),
        ("engines", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("reserved_out", ctypes.c_uint * 11),
    )


@dataclasses.dataclass(frozen=True)
class DecoderCaps:
    """Sizes in pixels that the decoder takes of 8-bit 4:2:0 video, and how many decoders the card has."""

    supported: bool
    engines: int
    min_width: int
    min_height: int
    max_width: int
    max_height: int


def decoder_caps(codec: str) -> DecoderCaps:
    """Of the current CUDA context's card: there must be one (``torch.cuda.init`` and a tensor make it).

    Args:
        codec: one of ``CODECS``.

    Raises:
        OSError: the driver's decoding library is not there, or does not answer; says why.
    """
    caps = _Caps(codec=CODECS[codec], chroma=_CHROMA_420, bit_depth_minus_8=0)
    code = _library().cuvidGetDecoderCaps(ctypes.byref(caps))
    if code:
        raise OSError(f"cuvidGetDecoderCaps: CUDA error {code}")
    return DecoderCaps(
        bool(caps.supported), caps.engines, caps.min_width, caps.min_height, caps.max_width, caps.max_height
    )


def _library() -> ctypes.CDLL:
    reason = OSError("libnvcuvid.so.1 is not found")
    for place in _PLACES:
        for name in sorted(glob.glob(place)) if "*" in place else (place,):
            try:
                return ctypes.CDLL(name)
            except OSError as error:
                reason = error
    raise reason
