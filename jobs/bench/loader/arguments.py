"""Arguments of ``jobs.bench loader``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from pipeline.config.base import require
from pipeline.config.data import ClipConfig
from pipeline.config.model import Modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderArgs:
    """Time the training loader."""

    data: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER, as jobs.preprocess wrote it."""
    json: Path
    """File for the result."""
    split: str = "train"
    modalities: tuple[Modality, ...] = ("rgb", "flow")
    batch_size: int = 16
    """Clips of a batch."""
    num_frames: int = 10
    """T: frames of a clip."""
    stride: int = 1
    stack: int = 1
    """Motion frames joined at each step."""
    crop: int = 224
    threads: int = 0
    """Our decoder's threads, and the baseline's worker processes; 0: the cores this process may use."""
    clips: int = 256
    """Clips that each contender decodes in one round, warm-up not counted."""
    rounds: int = 3
    """Turns of each contender; the best counts."""
    fetch_depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """GETs in flight to measure fetching alone with."""
    steps: int = 30
    """Training steps to measure the GPU's waiting over."""
    loader: Literal["auto", "dali", "ffmpeg", "reference"] = "auto"
    """Our decoder, as data.decoder."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    skip: tuple[Literal["baseline", "shortcut", "dali", "fetch", "step"], ...] = ()
    """What is not measured."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "clips", "rounds", "steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.threads >= 0, "threads", self.threads, "must be 0 (all cores) or more")
        require(all(d >= 1 for d in self.fetch_depths), "fetch_depths", self.fetch_depths, "each must be at least 1")
        require(self.json.parent.is_dir(), "json", str(self.json), "its folder does not exist; make it first")
        require(not self.json.is_dir(), "json", str(self.json), "is a folder; give a file in it")

    def clip(self) -> ClipConfig:
        """As a training run takes it."""
        return ClipConfig(num_frames=self.num_frames, stride=self.stride, stack=self.stack, crop=self.crop)
