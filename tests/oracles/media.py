"""An independent reading of any video, and the comparison of a stored video with it: the oracle of preprocessing's
decoder, clock and encoder.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from tests.support.ffmpeg_program import ffmpeg_program, picture_times, pictures


@dataclasses.dataclass(frozen=True)
class Reading:
    """All frames of a video, scaled, in presentation order, and their times in seconds."""

    frames_rgb_THWC: np.ndarray
    times_s: np.ndarray


def read_independently(path: Path, size: tuple[int, int]) -> Reading:
    """Decode with the ffmpeg program, or with PyAV where ffmpeg is not installed: every frame, rotated upright and
    resized to ``size`` (width, height), with area interpolation where it shrinks.
    """
    decoded = _ffmpeg_frames(path) if ffmpeg_program() else _pyav_frames(path)
    small, times = [], []
    for time_s, rgb in decoded:
        shrinks = size[0] < rgb.shape[1]
        small.append(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
        times.append(time_s)
    return Reading(np.stack(small), np.array(times))


def _ffmpeg_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    yield from zip(picture_times(path).tolist(), pictures(path), strict=True)


def _pyav_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    with av.open(f"file:{path.absolute()}", metadata_errors="replace") as container:
        for frame in container.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24")
            yield (
                (float("nan") if frame.time is None else frame.time),
                np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4)),
            )


def stored_frames(video: bytes) -> np.ndarray:
    """Frames of a stored video's bytes, uint8 RGB (T, H, W, 3)."""
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def disagreement(stored_THWC: np.ndarray, fps: float, reading: Reading) -> str:
    """What is wrong with a stored video, compared with an independent reading of its source; empty if nothing is.

    Stored frame k must be the source's k-th, or, if the source's frame rate is not constant, the one nearest to k / fps
    in time: no other frame of the source may be closer. Luma is compared per pixel, colour per block, because
    stored videos have chroma at half the resolution.
    """
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    stored, source = stored_THWC.astype(np.float32), reading.frames_rgb_THWC.astype(np.float32)
    picks = _expected_picks(len(stored), fps, reading.times_s)
    if picks is None:
        return f"{len(stored)} frames at {fps:g} fps of {len(source)} in {np.ptp(reading.times_s):g} s"
    for k, (frame, pick) in enumerate(zip(stored, picks, strict=True)):
        errors = (((source - frame) @ luma) ** 2).mean(axis=(1, 2))
        if errors[pick] > 1.1 * errors.min() + 2:
            return f"frame {k} is frame {int(errors.argmin())} of the source instead of {pick}"
        if (psnr := 10 * np.log10(255**2 / max(errors[pick], 1e-3))) < 27:
            return f"frame {k} is {psnr:.1f} dB from the source's"
        if (off := np.abs(_blocks(frame) - _blocks(source[pick])).max()) > 12:
            return f"frame {k}: a colour is {off:.1f} of 255 off"
    return ""


def _expected_picks(count: int, fps: float, times_s: np.ndarray) -> np.ndarray | None:
    """Index of the source frame for each stored frame; None if ``count`` is not the number of frames that the source's
    times call for.
    """
    intervals = np.diff(times_s)
    usual = float(np.median(intervals))
    # The program guesses the last two times of AVI with pictures out of order.
    constant = np.abs(intervals[:-2] - usual).max(initial=0) <= max(0.0015, 0.05 * usual)
    if constant and count == len(times_s):
        return np.arange(count)
    if np.isnan(times_s).any() or (intervals <= 0).any():
        return np.arange(len(times_s)) if count == len(times_s) else None
    changes_s = times_s[1:] - times_s[0] - np.minimum(intervals, usual) / 2
    picks = np.searchsorted(changes_s, np.arange(count) / fps - min(0.002, 0.1 / fps))
    return picks if abs(count - (np.ptp(times_s) + usual) * fps) <= 1 else None


def _blocks(frame_HWC: np.ndarray) -> np.ndarray:
    """Mean colours of 4 x 4 blocks."""
    height, width = frame_HWC.shape[0] // 4 * 4, frame_HWC.shape[1] // 4 * 4
    return frame_HWC[:height, :width].reshape(4, height // 4, 4, width // 4, 3).mean(axis=(1, 3))
