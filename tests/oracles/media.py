"""An independent reading of any video, and the comparison of a stored video with it: the oracle of preprocessing's
decoder, clock and encoder.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Reading:
    """All frames of a video, scaled, in presentation order, and their times in seconds."""

    frames_rgb_THWC: np.ndarray
    times_s: np.ndarray


def read_independently(path: Path, size: tuple[int, int]) -> Reading:
    """Decode with the ffmpeg program, or with PyAV where ffmpeg is not installed: every frame, rotated upright and
    resized to ``size`` (width, height), with area interpolation where it shrinks.
    """
    decoded = _ffmpeg_frames(path) if shutil.which("ffmpeg") and shutil.which("ffprobe") else _pyav_frames(path)
    small, times = [], []
    for time_s, rgb in decoded:
        shrinks = size[0] < rgb.shape[1]
        small.append(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
        times.append(time_s)
    return Reading(np.stack(small), np.array(times))


def _ffmpeg_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    url = f"file:{path.absolute()}"
    probe = subprocess.run(
        [
            "ffprobe",
            "-v",
            "quiet",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=best_effort_timestamp_time",
            "-of",
            "csv=p=0",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    times = iter(
        [
            float(line.strip(",")) if line.strip(",") != "N/A" else float("nan")
            for line in probe.stdout.split()
            if line.strip(",")
        ]
    )
    command = [
        "ffmpeg",
        "-v",
        "quiet",
        "-nostdin",
        "-threads",
        "1",
        "-i",
        url,
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
    ]
    with subprocess.Popen(
        [
            *command,
            "-sws_flags",
            "bilinear+accurate_rnd+full_chroma_int",
            "-pix_fmt",
            "rgb24",
            "-c:v",
            "ppm",
            "-f",
            "image2pipe",
            "-",
        ],
        stdout=subprocess.PIPE,
    ) as child:
        stream = child.stdout
        assert stream is not None
        while stream.readline() == b"P6\n":
            width, height = map(int, stream.readline().split())
            stream.readline()
            yield (
                next(times, float("nan")),
                np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3),
            )


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

    Stored frame k must be the source's k-th, or, if the source's frame rate is not constant, the last one shown at or
    before k / fps: no other frame of the source may be closer. Luma is compared per pixel, colour per block, because
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
    if (
        np.isnan(times_s).any()
        or (intervals <= 0).any()
        or np.abs(intervals - usual).max() <= max(0.0015, 0.05 * usual)
    ):
        return np.arange(len(times_s)) if count == len(times_s) else None
    picks = np.searchsorted(times_s - times_s[0], np.arange(count) / fps + min(0.002, 0.1 / fps), side="right") - 1
    return picks if abs(count - (np.ptp(times_s) + usual) * fps) <= 1 else None


def _blocks(frame_HWC: np.ndarray) -> np.ndarray:
    """Mean colours of 4 x 4 blocks."""
    height, width = frame_HWC.shape[0] // 4 * 4, frame_HWC.shape[1] // 4 * 4
    return frame_HWC[:height, :width].reshape(4, height // 4, 4, width // 4, 3).mean(axis=(1, 3))
