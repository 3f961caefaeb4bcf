"""Odd videos made by the ffmpeg program and a few bytes of surgery, each with what is right for it.

    python -m tests.support.odd_files FOLDER     makes them and prints file, right value and ours

The right value of a file is what the ffmpeg program shows of it: its pictures, each once, or at the rate of ours where
the clock is uneven. A file that was cut off, though it announces its length, is ``truncated`` by construction.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pipeline.errors import RejectedSource
from preprocessing.media.decode import VideoReader
from tests.oracles.media import disagreement, read_independently
from tests.support.ffmpeg_program import pictures
from tests.support.odd_recipes import CUT_SHARES, RECIPES, cut_containers, sources

Right = Literal["pictures", "rate", "cut", "unannounced", "not_video"]
_SIZE = (32, 24)  # at which pictures are compared
_TOO_LITTLE = ("truncated", "not_video", "no_frames", "too_short", "decode_error")
_TOLERANCE = 8.0  # levels of 255, mean over a picture: other scalers, other colour conversions


@dataclasses.dataclass(frozen=True)
class OddFile:
    """A file and what is right for it.

    pictures      those that the program shows, each once
    rate          those that the program shows, at our rate
    cut           ``truncated`` where the program shows less than 85 % of the whole file's pictures, its pictures where
                  more than 95 %, either of the two in between
    unannounced   the program's pictures, and the reader says that the file may be cut
    not_video     a reject of this reason
    """

    path: Path
    right: Right
    whole: Path | None = None
    """Of a file that was cut: what it was cut from."""


def make(folder: Path) -> list[OddFile]:
    """Write all odd files below ``folder``."""
    made = sources(folder / "sources")
    files = []
    for name, right, recipe in RECIPES:
        path = folder / name
        recipe(made, path)
        files.append(OddFile(path, right))
    for whole, announced in cut_containers(folder / "sources").items():
        data = whole.read_bytes()
        for percent in CUT_SHARES:
            path = folder / f"cut{percent}{whole.suffix}"
            path.write_bytes(data[: len(data) * percent // 100])
            files.append(OddFile(path, "cut" if announced else "unannounced", whole))
    return files


def _small(frames: Sequence[np.ndarray]) -> np.ndarray:
    """(T, h, w) grey."""
    grey = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames)
    small = [cv2.resize(frame, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32) for frame in grey]
    return np.stack(small) if small else np.zeros((0, *_SIZE[::-1]), np.float32)


def _differs(ours: np.ndarray, theirs: np.ndarray) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} pictures instead of {len(theirs)}"
    off = np.abs(ours - theirs).mean((1, 2))
    return f"picture {int(off.argmax())} is {off.max():.0f} levels off" if off.max() > _TOLERANCE else ""


def check(file: OddFile) -> tuple[str, str]:
    """What this project makes of a file, and what is wrong with that (empty: nothing)."""
    try:
        with VideoReader(file.path, short_side=48) as video:
            frames = list(video)
            fps, announced = video.fps, video.length_announced
    except RejectedSource as error:
        return error.reason, _wrong_reject(file, error)
    ours = f"{len(frames)} at {fps:.4g}/s"
    if file.right == "not_video":
        return ours, "expected not_video"
    if file.right == "rate":
        height, width = frames[0].shape[:2]
        return ours, disagreement(np.stack(frames), fps, read_independently(file.path, (width, height)))
    if file.right == "cut" and (share := _shown_share(file)) < 0.85:
        return ours, f"expected truncated: {share:.0%} of the pictures"
    wrong = _differs(_small(frames), _small(list(pictures(file.path))))
    if not wrong and file.right == "unannounced" and announced:
        wrong = "it may be cut, and the reader does not say so"
    return ours, wrong


def _wrong_reject(file: OddFile, error: RejectedSource) -> str:
    if file.right == "not_video":
        return "" if error.reason == "not_video" else str(error)
    if file.whole is None:
        return str(error)
    try:
        shown = sum(1 for _ in pictures(file.path))
    except AssertionError:
        shown = 0
    if shown < 2:  # what is left is no video to anybody
        return (
            "" if error.reason in ("truncated", "not_video", "no_frames", "too_short", "decode_error") else str(error)
        )
    return "" if file.right == "cut" and error.reason == "truncated" and _shown_share(file) < 0.95 else str(error)


def _shown_share(file: OddFile) -> float:
    assert file.whole is not None
    return sum(1 for _ in pictures(file.path)) / sum(1 for _ in pictures(file.whole))


def main() -> int:
    """Make the files and print the table; returns 1 where a file is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files are made")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    num_wrong = 0
    for file in make(folder):
        ours, wrong = check(file)
        num_wrong += bool(wrong)
        print(f"{file.path.name:34} {file.right:13} {ours:18} {wrong}")
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
