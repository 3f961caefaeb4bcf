"""One sample: the grammar of keys and member names, and the 8-bit codes of flow and difference.

A sample KEY has the members ``KEY.rgb.mp4``, ``KEY.flow.mp4``, ``KEY.diff.mp4`` (those its data set stores) and
``KEY.json``. Readers disagree on where an extension starts (webdataset: at the first dot), so keys hold no dot.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

MODALITIES = ("rgb", "flow", "diff")
ONLINE_DIFF = "diff-online"  # a modality of models, not of data sets: made of rgb when it is read
DIFF_BOUND = 127
DIFF_ZERO = 128
_KEY = re.compile(r"[A-Za-z0-9_-]{1,96}\Z")


def sample_key(source: str) -> str:
    """Key of a source: its readable stem and 12 hex digits of its relative path's sha256.

    The same source gives the same key in every run; two sources with the same file name get two keys.

    Args:
        source: path relative to the data set's root, with ``/`` (plus ``#START-END`` where a part is meant).
    """
    stem = PurePosixPath(source.rpartition("#")[0] or source).name.rsplit(".", 1)[0]
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_stem).strip("-")[:64] or "clip"
    return f"{readable}-{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def stored_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The members that a model of these ``modalities`` reads, in their order, each once: ``diff-online`` reads
    ``rgb``.
    """
    return tuple(dict.fromkeys("rgb" if m == ONLINE_DIFF else m for m in modalities))


def check_key(key: str) -> str:
    """Return ``key``; raise ValueError where it is outside the grammar ``[A-Za-z0-9_-]{1,96}``."""
    if not _KEY.match(key):
        raise ValueError(f"sample key {key!r}: use 1 to 96 of A-Z a-z 0-9 _ - and no dot")
    return key


def extension(modality: str) -> str:
    """webdataset extension of a member: ``rgb.mp4``, ``flow.mp4``, ``diff.mp4``, or ``json`` itself."""
    return "json" if modality == "json" else f"{modality}.mp4"


def quantise_flow(flow_px: np.ndarray, bound_px: float = 20.0) -> np.ndarray:
    """Flow in pixels to codes: ``q = round((clip(d, -b, b) + b) * 255 / (2 b))``, half to even.

    Zero displacement has the code 128 (127.5 rounded to even); a step is 2 b / 255 = 0.157 px at b = 20.

    Args:
        flow_px: (..., 2, H, W) float, u then v.

    Returns:
        (..., 2 H, W) uint8: u above v in one picture.
    """
    *lead, two, height, width = flow_px.shape
    if two != 2:
        raise ValueError(f"flow must be (..., 2, H, W), got {flow_px.shape}")
    codes = np.empty((*lead, 2 * height, width), np.uint8)
    scratch = np.empty((2, height, width), np.result_type(flow_px.dtype, np.float32))
    # One pair after another in one small buffer, which stays in the cache: four times as fast as whole clips.
    for pair, out in zip(flow_px.reshape(-1, 2, height, width), codes.reshape(-1, 2, height, width), strict=True):
        np.clip(pair, -bound_px, bound_px, out=scratch)
        np.add(scratch, bound_px, out=scratch)
        np.multiply(scratch, 255.0 / (2 * bound_px), out=scratch)
        np.copyto(out, np.rint(scratch, out=scratch), casting="unsafe")
    return codes


def dequantise_flow(codes: np.ndarray, bound_px: float = 20.0) -> np.ndarray:
    """Inverse of ``quantise_flow``: (..., 2 H, W) codes to (..., 2, H, W) float32 pixels, ``q * 2 b / 255 - b``."""
    *lead, rows, width = codes.shape
    if rows % 2:
        raise ValueError(f"a flow picture has an even number of rows (u above v), got {codes.shape}")
    flow = codes.astype(np.float32) * np.float32(2 * bound_px / 255.0) - np.float32(bound_px)
    return flow.reshape(*lead, 2, rows // 2, width)


def quantise_diff(rgb_THWC: np.ndarray) -> np.ndarray:
    """RGB difference as stored: ``clip(x[t+1] - x[t], -127, 127) + 128``; (T, H, W, 3) uint8 to (T-1, H, W, 3)
    uint8.
    """
    if rgb_THWC.ndim != 4 or rgb_THWC.shape[-1] != 3 or rgb_THWC.dtype != np.uint8:
        raise ValueError(f"expected uint8 (T, H, W, 3), got {rgb_THWC.dtype} {rgb_THWC.shape}")
    codes = np.empty((max(0, len(rgb_THWC) - 1), *rgb_THWC.shape[1:]), np.uint8)
    scratch = np.empty(rgb_THWC.shape[1:], np.int16)
    for t in range(len(codes)):
        np.subtract(rgb_THWC[t + 1], rgb_THWC[t], out=scratch, dtype=np.int16)
        np.clip(scratch, -DIFF_BOUND, DIFF_BOUND, out=scratch)
        codes[t] = np.add(scratch, DIFF_ZERO, out=scratch)
    return codes
