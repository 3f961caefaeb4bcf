"""Pairs of frames to compare flow engines on: neighbours of real clips, the fastest of them, known translations."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.config.base import require
from pipeline.errors import RejectedSource
from preprocessing.flow.base import to_gray

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
MIN_CLIPS = 3
MAX_CLIPS = 12
_MAX_FRAMES = 300  # used of a clip
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)  # from one translation's direction to the next: soon all round


@dataclasses.dataclass(frozen=True)
class Pairs:
    """(N, 2, H, W) uint8 brightness, and the clip each pair is from."""

    gray_N2HW: np.ndarray
    clips: tuple[str, ...]
    truth_N2: np.ndarray | None = None
    """Where it is known: how far each pair's picture moves, u and v in pixels, the same everywhere."""

    def error_to_truth(self, flow_N2HW: np.ndarray) -> float:
        """Mean end-point error in pixels, over the pixels that are in both frames."""
        assert self.truth_N2 is not None
        height, width = flow_N2HW.shape[2:]
        errors = []
        for flow, (u, v) in zip(flow_N2HW, self.truth_N2, strict=True):
            seen = np.s_[max(0, -v) : height - max(0, v), max(0, -u) : width - max(0, u)]
            errors.append(np.hypot(flow[0][seen] - u, flow[1][seen] - v).mean())
        return float(np.mean(errors))


def pick_pairs(folder: Path, count: int, size: tuple[int, int], *, fps: float = 0.0, fastest: bool = False) -> Pairs:
    """``count`` pairs of neighbouring frames, spread over up to 12 clips below a folder and over their time.

    Args:
        size: (width, height) in pixels; frames are scaled to exactly that.
        fps: frames a second that are taken of each clip; 0: all.
        fastest: of every clip the pairs that move most, instead of evenly spread ones. A cut counts as motion.

    Raises:
        ConfigError: no such folder, or fewer than 3 readable clips in it.
    """
    clips = _read_clips(folder, count, size, fps)
    gray, sources = [], []
    for k, name in enumerate(sorted(clips)):
        frames, share = clips[name], len(range(k, count, len(clips)))
        if fastest:
            times = np.sort(np.argsort(_speeds(frames, size))[::-1][:share])
        else:
            times = np.linspace(0, len(frames) - 2, share + 2)[1:-1].round().astype(int) if share else ()
        for t in times:
            gray.append(_scaled(frames[t : t + 2], size))
            sources.append(name)
    return Pairs(np.stack(gray), tuple(sources))


def translated_pairs(folder: Path, count: int, size: tuple[int, int], lengths_px: Sequence[float]) -> Pairs:
    """``count`` pairs of windows on real frames, the second one moved by whole pixels in changing directions: nothing
    is interpolated, and the flow is known.

    Args:
        size: (width, height) of a window in pixels.
        lengths_px: lengths of the translations, taken in turn.

    Raises:
        ConfigError: as ``pick_pairs``.
    """
    clips = _read_clips(folder, count, size, 0.0)
    margin = int(np.ceil(max(lengths_px)))
    names = sorted(clips)
    gray, sources, truth = [], [], []
    for k in range(count):
        name, length, angle = names[k % len(names)], lengths_px[k % len(lengths_px)], k * _GOLDEN_ANGLE
        u, v = round(length * np.cos(angle)), round(length * np.sin(angle))
        frames = clips[name]
        at = len(frames) * (k // len(names) + 1) // (count // len(names) + 2)
        picture = _scaled(frames[at : at + 1], (size[0] + 2 * margin, size[1] + 2 * margin))[0]
        windows = [
            picture[margin - dy : margin - dy + size[1], margin - dx : margin - dx + size[0]]
            for dx, dy in ((0, 0), (u, v))
        ]
        gray.append(np.stack(windows))
        sources.append(name)
        truth.append((u, v))
    return Pairs(np.stack(gray), tuple(sources), np.array(truth))


def _read_clips(folder: Path, count: int, size: tuple[int, int], fps: float) -> dict[str, np.ndarray]:
    """Frames (T, H, W, 3) of up to 12 clips by name, T >= 2."""
    from preprocessing.media.decode import decode_video  # here, so that engines are timed without PyAV on stored pairs

    require(folder.is_dir(), "videos", str(folder), "give a folder with at least 3 videos")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    clips: dict[str, np.ndarray] = {}
    # A seeded order: neighbours in a folder are of one class, often of one scene.
    for i in np.random.default_rng(0).permutation(len(files)):
        name = str(files[i].relative_to(folder))
        try:
            decoded = decode_video(files[i], short_side=_even(min(size)), fps=fps, max_frames=_MAX_FRAMES)
        except RejectedSource as error:
            log.info("%s is left out: %s", name, error)
            continue
        if len(decoded.frames_rgb_THWC) < 2:
            log.info("%s is left out: it has one frame", name)
            continue
        clips[name] = decoded.frames_rgb_THWC
        if len(clips) == min(MAX_CLIPS, max(MIN_CLIPS, count)):
            break
    require(
        len(clips) >= MIN_CLIPS,
        "videos",
        str(folder),
        f"{len(clips)} of its {len(files)} videos can be read; give a folder with at least {MIN_CLIPS}",
    )
    return clips


def _scaled(frames_rgb_THWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return to_gray(np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames_rgb_THWC]))


def _speeds(frames_rgb_THWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(T - 1,): the motion that 5 % of a frame's pixels exceed, as a quick flow estimates it."""
    quick = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_ULTRAFAST)
    gray = _scaled(frames_rgb_THWC, size)
    flows = [quick.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in itertools.pairwise(gray)]
    return np.array([np.quantile(np.linalg.norm(flow, axis=2), 0.95) for flow in flows])


def _even(side: int) -> int:
    return max(16, side + side % 2)
