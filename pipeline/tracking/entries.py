"""What a run's journal holds, one line of JSON for each entry.

    {"at_ms": T, "step": 40, "curve": {"train/loss": 1.25}}      a point of each curve: MLflow gets a name and step once
    {"at_ms": T, "step": 0, "scores": {"test/top1_4x1": 0.5}}    as above; another entry with this step is another point
    {"at_ms": T, "tags": {"bottleneck": "..."}}
    {"at_ms": T, "name": "config.json", "text": "{}"}            an artifact
    {"at_ms": T, "name": "evaluation/a.png", "path": "evaluations/a.png"}     one that is an object of the run's folder
    {"at_ms": T, "data": {"name": "k400", "split": "val", ...}}  a split of a data set that the run reads
    {"at_ms": T, "status": "RUNNING"}                            or FINISHED, FAILED, KILLED

``at_ms`` is when it was logged, in milliseconds since 1970: points that are sent hours later keep their time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Literal

from pipeline.common.strict_json import read_json
from pipeline.common.typed import Count

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInput:
    """A split of a data set that a run reads. MLflow lists it among the run's data sets."""

    name: str
    """Of the data set."""
    split: str
    digest: str
    """sha256 of its manifest."""
    uri: str
    context: Literal["training", "validation", "evaluation"]
    num_samples: Count
    num_classes: Count

    @property
    def shown_name(self) -> str:
        """As MLflow has it; a split has a name of its own, because it has counts of its own."""
        return f"{self.name} {self.split}"

    @property
    def shown_digest(self) -> str:
        """As much of the digest as MLflow takes."""
        return self.digest[:36]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """See the module. NaN is null in JSON, and what is infinite is the largest number."""

    at_ms: Count = dataclasses.field(default_factory=now_ms)
    step: Count = 0
    curve: dict[str, float | None] = dataclasses.field(default_factory=dict)
    scores: dict[str, float | None] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    name: str = ""
    text: str = ""
    path: str = ""
    data: DataInput | None = None
    status: Status | None = None
    if_running: bool = False
    """The status is for a page that says RUNNING alone."""

    def to_line(self) -> bytes:
        """One line, with its line feed; fields that are empty are left out."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value or name == "at_ms"}
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes, where: str) -> Entry:
        """Raises JsonError where it is no entry. Fields that newer code may have added are left out."""
        return read_json(cls, line, where, extra=True)


def plain_numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Values as entries hold them."""
    most = sys.float_info.max
    return {name: None if math.isnan(value) else max(-most, min(most, float(value))) for name, value in metrics.items()}


def number(value: float | None) -> float:
    """The value that an entry holds."""
    return math.nan if value is None else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageRecord:
    """``journal/page.json``: all that is needed to find or make a run's page on a tracking server."""

    experiment: str
    run_id: str
    """Ours: the page has it as a tag."""
    params: dict[str, str]
    tags: dict[str, str]
    started_ms: Count = dataclasses.field(default_factory=now_ms)
    tracking_run_id: str = ""
    """MLflow's, where it is known from elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentRecord:
    """``journal/sent.json``: how far the page has what the journal holds."""

    tracking_run_id: str = ""
    segments: dict[str, Count] = dataclasses.field(default_factory=dict)
    """Bytes of each segment that were sent; segments only grow."""
    status: Status | None = None
    """The last one that was sent."""
    last_ms: Count = 0
    """When the latest entry was logged that was sent."""
    refused: tuple[str, ...] = ()
    """Lines of entries that the server refused alone; they are tried again."""
