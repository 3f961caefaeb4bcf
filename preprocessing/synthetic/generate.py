"""Make a small video data set that needs both appearance and motion, for tests and first runs.

    python -m preprocessing.synthetic ~/toy                       # 9 classes x (24 + 6 + 6) clips, about 30 ms each
    python -m jobs.preprocess --format ucf101 --source ~/toy/videos --annotations ~/toy --out file://$HOME/toy-shards
    python -m preprocessing.synthetic ~/binding --task binding --train 300 --val 0 --test 100
    python -m preprocessing.synthetic ~/distractors --task distractors --train 100 --val 0 --test 20

Task ``pair``: a class is a pair (texture of the object, motion of the object), for example ``stripes_rise``. Either
half alone leaves as many candidates as the other half has values. Nothing else tells the classes apart:

* colours, orientation, phase, scale and outline of the object come from the same distribution in every class;
* the frame is a vertical torus (what leaves at the top returns at the bottom), so a rising object
  rises in every frame and its position is uniform; ``sway`` and ``swell`` move along triangle waves, whose
  values are uniform, and the other motions draw a fixed offset and a fixed size from the same distribution,
  so one frame does not show which motion it is;
* every motion is its own mirror image, because training flips clips;
* half a period of ``sway`` and ``swell`` is at most 8 frames, so any 8 frames show the motion.

Task ``binding``: two textures drift in every video, one up and one down; the class is which. What is there and what
moves are the same in both classes, so neither single RGB frames nor flow tell them apart (see ``tasks.draw_binding``).
Task ``parts``: one of its objects at a time, 4 classes, (texture, motion), to train the streams with first.

Task ``distractors``: of one to three textured objects one moves, and the camera pans; 9 classes, (texture that
moves, motion) (see ``tasks.draw_distractors``).

Reads nothing. Writes OUT/videos/CLASS/FILE.mp4 (H.264), OUT/classInd.txt and OUT/{train,val,test}list01.txt
in the format of UCF-101. The same arguments give the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import av
import cv2
import numpy as np
import tyro

from pipeline.common.cli import console, parse
from pipeline.common.words import counted
from pipeline.config.base import require
from pipeline.errors import UserError
from preprocessing.synthetic.scene import MOTIONS, draw_pair, render
from preprocessing.synthetic.tasks import (
    BINDING_CLASSES,
    DISTRACTOR_MOTIONS,
    DISTRACTOR_TEXTURES,
    PART_CLASSES,
    draw_binding,
    draw_distractors,
    draw_part,
)
from preprocessing.synthetic.textures import APPEARANCES

_TASK_SEEDS = {"binding": 101, "distractors": 102, "parts": 103}  # apart from the indices of task pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What to draw. Counts are clips of one class."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must be new or empty."""
    task: Literal["pair", "parts", "binding", "distractors"] = "pair"
    """What a class is: texture and motion of the one object (pair, parts); which of two textures moves which way;
    texture and motion of the one object of three that moves.
    """
    seed: int = 0
    train: int = 24
    val: int = 6
    test: int = 6
    appearances: int = 3
    """Of task pair: number of textures, the first of stripes, dots, rings, checks."""
    motions: int = 3
    """Of task pair: number of motions, the first of rise, sink, sway, swell."""
    min_frames: int = 20
    max_frames: int = 32

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        require(self.train >= 1, "train", self.train, "must be at least 1")
        require(self.val >= 0, "val", self.val, "must be 0 or more")
        require(self.test >= 0, "test", self.test, "must be 0 or more")
        require(
            1 <= self.appearances <= len(APPEARANCES),
            "appearances",
            self.appearances,
            f"must be in 1..{len(APPEARANCES)}",
        )
        require(1 <= self.motions <= len(MOTIONS), "motions", self.motions, f"must be in 1..{len(MOTIONS)}")
        for name in ("appearances", "motions"):
            fix = f"task {self.task} has classes of its own: leave {name} out, or use task pair"
            require(self.task == "pair" or getattr(self, name) == 3, name, getattr(self, name), fix)
        require(self.min_frames >= 2, "min_frames", self.min_frames, "must be at least 2")
        require(
            self.max_frames >= self.min_frames,
            "max_frames",
            self.max_frames,
            f"must be at least min_frames = {self.min_frames}",
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(appearance, motion) of every class of task pair, in label order."""
        return [(a, m) for a in APPEARANCES[: self.appearances] for m in MOTIONS[: self.motions]]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in label order."""
        match self.task:
            case "binding":
                return list(BINDING_CLASSES)
            case "parts":
                return list(PART_CLASSES)
            case "distractors":
                return [f"{texture}_{motion}" for texture in DISTRACTOR_TEXTURES for motion in DISTRACTOR_MOTIONS]
            case _:
                return [f"{a}_{m}" for a, m in self.pairs]


def write_h264(path: Path, frames_rgb_THWC: np.ndarray, fps: int) -> None:
    """Write uint8 RGB frames (T, H, W, 3), H and W even, as an MP4 that has the same bytes every time."""
    height, width = frames_rgb_THWC.shape[1:3]
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        # One thread: x264 splits work, and so changes bits, by the number of threads. Without mbtree: with it, x264's
        # vector code occasionally gives other bits for the same frames (measured: 2 to 5 different files in 8 runs).
        options = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for rgb in frames_rgb_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())


def draw_clip(config: SyntheticConfig, label: int, split: str, index: int) -> tuple[np.ndarray, int]:
    """Frames (T, H, W, 3) uint8 RGB and the frame rate of one clip: a pure function of its arguments."""
    split_id = ("train", "val", "test").index(split)
    appearance, motion = config.pairs[label] if config.task == "pair" else (APPEARANCES[0], MOTIONS[0])
    what = (
        (APPEARANCES.index(appearance), MOTIONS.index(motion))
        if config.task == "pair"
        else (_TASK_SEEDS[config.task], label)
    )
    rng = np.random.default_rng([config.seed, *what, split_id, index])
    num_frames = int(rng.integers(config.min_frames, config.max_frames + 1))
    match config.task:
        case "binding":
            scene = draw_binding(rng, label, num_frames)
        case "parts":
            scene = draw_part(rng, label, num_frames)
        case "distractors":
            scene = draw_distractors(rng, label, num_frames)
        case _:
            scene = draw_pair(rng, appearance, motion, num_frames)
    return render(scene, rng), int(rng.integers(20, 31))


def generate(config: SyntheticConfig) -> int:
    """Write the data set and return the number of clips.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    cv2.setNumThreads(1)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        if any(config.out.iterdir()):
            raise UserError(f"{config.out} is not empty: give a new folder, so that no older clip is mixed in")
    except OSError as error:
        raise UserError(f"cannot write {config.out}: {error}") from error
    names = config.classes
    (config.out / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    total = 0
    for split, count in (("train", config.train), ("val", config.val), ("test", config.test)):
        lines = []
        for label, name in enumerate(names):
            folder = config.out / "videos" / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                frames, fps = draw_clip(config, label, split, index)
                file = f"{name}_{split}_{index:04d}.mp4"
                write_h264(folder / file, frames, fps)
                lines.append(f"{name}/{file} {label + 1}\n" if split != "test" else f"{name}/{file}\n")
        if count:
            (config.out / f"{split}list01.txt").write_text("".join(lines))
        total += len(lines)
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0. Raises UserError where the arguments cannot work."""
    config = parse(SyntheticConfig, args=argv, prog="python -m preprocessing.synthetic", description=__doc__)
    total = generate(config)
    console.print(
        f"{counted(total, 'clip')} of {counted(len(config.classes), 'class', 'classes')} in {config.out}", markup=False
    )
    return 0
