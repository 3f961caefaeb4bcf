"""Whole arrays of pictures as stored videos in memory, by the writer that preprocessing uses."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np

from preprocessing.media.encode import VideoCodec, VideoWriter


def encode_rgb(frames_rgb_THWC: np.ndarray, fps: float, codec: VideoCodec) -> bytes:
    """Colour frames (T, H, W, 3) uint8, T >= 1, H and W even."""
    return _encode(frames_rgb_THWC, "rgb", fps, codec)


def encode_gray(codes_THW: np.ndarray, fps: float, codec: VideoCodec) -> bytes:
    """Pictures of 8-bit codes (T, H, W) uint8, T >= 1, H and W even."""
    return _encode(codes_THW, "gray", fps, codec)


def _encode(pictures: np.ndarray, kind: Literal["rgb", "gray"], fps: float, codec: VideoCodec) -> bytes:
    buffer = io.BytesIO()
    with VideoWriter(buffer, kind, (pictures.shape[2], pictures.shape[1]), fps, codec) as writer:
        writer.write(pictures)
    return buffer.getvalue()
