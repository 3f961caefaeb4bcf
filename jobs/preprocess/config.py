"""Options of the preprocessing command, and their rules."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Literal

from pipeline.config.base import require
from pipeline.config.preprocess import StoredConfig

_LIMIT = re.compile(r"(?P<share>\d+(\.\d+)?%|0?\.\d+|1\.0+)|(?P<count>\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What to read, where to write, and how samples are stored."""

    format: Literal["folder", "pictures", "csv", "ucf101", "hmdb51", "kinetics", "moments"]
    """folder: SOURCE/[SPLIT/]CLASS/FILE. pictures: the same of JPEG, PNG and WebP files, each a sample of one frame.
    csv: path,label[,split][,start_s][,end_s]. The others: the lists that the data sets publish.
    """
    source: str
    """Where the videos are: a folder that every node sees, s3://BUCKET/PREFIX, or a .tar, .tar.gz or .zip in one of
    them. Archives are read without unpacking them.
    """
    out: str
    """Where the data set goes: s3://BUCKET/PREFIX or file:///FOLDER."""
    annotations: str = ""
    """Folder or file of the lists; default: --source."""
    split_index: int = 1
    """Which of the published splits (ucf101, hmdb51: 1, 2 or 3)."""
    any_classes: bool = False
    """Accept class names that are not those of Kinetics-400 or Moments in Time (kinetics, moments)."""
    name: str = ""
    """The data set's name in the manifest; default: the last part of --out."""
    flow_engine: Literal["auto", "opencv", "numba", "torch"] = "auto"
    """Which implementation of TV-L1; auto: torch where the cluster has a GPU, else numba."""
    samples_per_shard: int = 64
    max_rejects: str = "10%"
    """Videos that may be rejected before the run fails: a number, or a share (5% or 0.05) of those that exist, rounded
    down. Missing videos are counted separately."""
    max_missing: str = "100%"
    """Listed videos that may be missing: a number, or a share; at least one must exist."""
    retry_rejected: bool = False
    """Rebuild the shards that have rejects, after files were fixed or have arrived."""
    dry_run: bool = False
    """Print the plan and its cost, estimated from a timed sample of these videos, and stop."""
    dry_run_clips: int = 8
    """Videos in the timed sample."""
    gpu_share: float = 0.0
    """Part of a GPU that a task takes (torch engine): it computes for one task while others decode and encode. 0: as
    many tasks a GPU as its node has pairs of CPUs for it, at most six.
    """
    overwrite: bool = False
    """Replace a finished data set, or repair it: stored shards are read and compared with their records, and those that
    differ or were made otherwise are built again. Runs that read it meanwhile will fail.
    """
    stored: StoredConfig = dataclasses.field(default_factory=StoredConfig)

    def __post_init__(self) -> None:
        require(self.out.startswith(("s3://", "file://")), "out", self.out, "give s3://BUCKET/PREFIX or file:///FOLDER")
        bucket, _, prefix = self.out.removeprefix("s3://").partition("/")
        require(
            not self.out.startswith("s3://") or bool(bucket and prefix.strip("/")),
            "out",
            self.out,
            "a data set needs a place of its own in the bucket, beside others and the runs: give s3://BUCKET/PREFIX",
        )
        require(
            not (self.format in ("folder", "pictures") and self.annotations),
            "annotations",
            self.annotations,
            f"the {self.format} format has no lists: leave it out, or use --format ucf101",
        )
        require(
            self.format != "pictures" or self.stored.modalities == ("rgb",),
            "stored.modalities",
            self.stored.modalities,
            "a picture has no flow and no difference to the next: give --stored.modalities rgb",
        )
        require(1 <= self.split_index <= 99, "split_index", self.split_index, "must be in 1..99")
        require(self.samples_per_shard >= 1, "samples_per_shard", self.samples_per_shard, "must be at least 1")
        require(0 <= self.gpu_share <= 1, "gpu_share", self.gpu_share, "must be in (0, 1], or 0 to derive it")
        require(self.dry_run_clips >= 1, "dry_run_clips", self.dry_run_clips, "must be at least 1")
        for field in ("max_rejects", "max_missing"):
            require(
                _is_limit(getattr(self, field)),
                field,
                getattr(self, field),
                "give a number (100) or a share (5% or 0.05) of at most 100%",
            )

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.name or self.out.rstrip("/").rsplit("/", 1)[-1]

    @property
    def lists(self) -> str:
        """Where the annotation files are; empty: at the source."""
        return (
            self.annotations
            if self.annotations.startswith("s3://")
            else str(Path(self.annotations.removeprefix("file://")).expanduser())
            if self.annotations
            else ""
        )


def limit(text: str, total: int) -> int:
    """A limit as a number: ``100``, or a share of ``total``, rounded down, because more would be above the share:
    ``5%``, ``0.05``.
    """
    if (found := _LIMIT.fullmatch(text)) and found["count"]:
        return int(found["count"])
    return math.floor(_share(text) * total + 1e-9)


def _share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _is_limit(text: str) -> bool:
    found = _LIMIT.fullmatch(text)
    return found is not None and (found["count"] is not None or _share(text) <= 1)
