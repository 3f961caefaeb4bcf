"""What a preprocessing run reports: the plan before, the summary after, and its run in MLflow."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.tally import Tally
from jobs.preprocess.tasks import Job
from pipeline.common.cli import console
from pipeline.common.words import counted
from pipeline.config.base import as_dict
from pipeline.config.stack import state_folder
from pipeline.dataset.manifest import MANIFEST, Manifest
from pipeline.storage import open_storage
from pipeline.tracking.entries import Status
from pipeline.tracking.links import DATA_TAG, PREPROCESSING
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record
from preprocessing.annotations import Annotations
from preprocessing.shard.plan import PlannedSource, ShardPlan
from preprocessing.shard.work import StageTimes
from preprocessing.sources.base import escapes

log = logging.getLogger(__name__)
_STAGES = ("fetch", "decode", "flow", "encode", "verify", "store")
_LOG_EVERY_S = 10.0


def split_missing(plans: Sequence[ShardPlan]) -> tuple[list[PlannedSource], list[str]]:
    """What the store does not list: the sources that do not exist, and the paths that lead out of --source, which are
    never looked up and become rejects.
    """
    absent = [planned for plan in plans for planned in plan.missing]
    return (
        [planned for planned in absent if not escapes(planned.source.path)],
        [planned.source.path for planned in absent if escapes(planned.source.path)],
    )


def print_plan(annotations: Annotations, plans: Sequence[ShardPlan], seconds: float) -> None:
    """Print videos, classes, shards and what is missing, before anything is computed."""
    num_inputs = len(annotations.sources)
    absent, outside = split_missing(plans)
    missing = Counter(planned.source.label for planned in absent)
    splits = Counter(s.split for s in annotations.sources)
    by_split = ", ".join(f"{split} {splits[split]}" for split in ("train", "val", "test") if splits[split])
    console.print(
        f"{counted(num_inputs, 'video')} ({by_split}), {counted(len(annotations.classes), 'class', 'classes')},"
        f" {counted(len(plans), 'shard')}; planned in"
        f" {seconds:.1f} s"
    )
    if outside:
        console.print(
            f"{len(outside)} of {counted(num_inputs, 'listed path')} {'leads' if len(outside) == 1 else 'lead'} out of"
            f" --source and will be rejected (unsafe_path), such as {outside[0]}"
        )
    if missing:
        present = num_inputs - missing.total() - len(outside)
        console.print(
            f"{missing.total()} of {num_inputs} videos are missing, in {counted(len(missing), 'class', 'classes')}:"
            f" {_per_class(list(missing.most_common()), annotations.classes)}"
        )
        if present < 0.5 * num_inputs:
            console.print(
                f"{present} exist: shards will have {present / len(plans):.1f} samples on average; raise"
                " --samples-per-shard if no more will arrive"
            )


def print_summary(
    config: PreprocessConfig, manifest: Manifest, annotations: Annotations, tally: Tally, num_built: int, seconds: float
) -> None:
    """Print counts, rejects by reason and class, times of the stages, and the digest."""
    if tally.reasons:
        table = Table(title="rejected videos", title_justify="left")
        for column in ("reason", "videos", "classes", "most in", "first"):
            table.add_column(column, justify="right" if column in ("videos", "classes") else "left", overflow="fold")
        for reason, count in tally.reasons.most_common():
            found = tally.classes_of(reason)
            first = tally.examples[reason][0]
            table.add_row(
                reason,
                str(count),
                str(len(found)),
                _per_class(found, annotations.classes, 3),
                f"{first.source}: {first.detail}",
            )
        console.print(table)
    if tally.num_maybe_cut:
        console.print(
            f"{tally.num_maybe_cut} samples come from files that do not say their length (MPEG-TS, live recordings):"
            " whether one is cut off cannot be seen"
        )
    if tally.times.clips:
        console.print(f"seconds of work by stage: {stage_line(tally.times)}")
    built = (
        f"{num_built} processed in {seconds:.1f} s ({num_built / seconds:.2f} clips/s,"
        f" {tally.times.pairs / seconds:.1f} pairs/s)"
    )
    reasons = f" ({tally.num_missing} missing, {tally.num_rejected} for other reasons)" if tally.reasons else ""
    console.print(
        f"{counted(manifest.num_inputs, 'video')} = {counted(manifest.num_samples, 'sample')} +"
        f" {manifest.num_rejects} rejected{reasons},"
        f" {manifest.split_sizes()}; {built}"
    )
    console.print(f"{config.out.rstrip('/')}/{MANIFEST} sha256 {manifest.digest}")


def stage_line(times: StageTimes) -> str:
    """Seconds each stage was busy, with its share."""
    busy = {stage: getattr(times, f"{stage}_s") for stage in _STAGES}
    total = sum(busy.values()) or 1.0
    return ", ".join(f"{stage} {seconds:.1f} ({seconds / total:.0%})" for stage, seconds in busy.items())


def _per_class(counts: Sequence[tuple[int, int]], classes: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(f"{classes[label]} {count}" for label, count in counts[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")


class RunLog:
    """The job's run in MLflow. A tracking server that fails or hangs costs curves, never work or time.

    Its journal lies on this machine, because a data set's folder holds nothing but the data set, and goes when MLflow
    has all of it.
    """

    def __init__(self, page: RunPage, folder: Path) -> None:
        self._page, self._folder = page, folder
        self._start_s = self._logged_s = time.monotonic()
        self._step = -1

    @classmethod
    def start(cls, config: PreprocessConfig, job: Job, todo: Sequence[ShardPlan]) -> RunLog:
        """Find or create the run of this data set."""
        params = {**as_dict(config), "stored": as_dict(job.spec.stored), "flow": job.spec.flow or {}}
        tags = {DATA_TAG: config.out.rstrip("/"), "reciprocal.shards_to_build": str(len(todo))}
        record = page_record(PREPROCESSING, f"{config.dataset}-{job.spec.parameter_hash}", params, tags)
        folder = state_folder("preprocessing", f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        page = RunPage(open_storage(f"file://{folder}"), record)
        page.start()
        return cls(page, folder)

    def progress(self, tally: Tally) -> None:
        """Add a point to the curves, at most every few seconds."""
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            self._log(tally)

    def _log(self, tally: Tally) -> None:
        if (step := len(tally.entries)) != self._step:  # one point a step
            self._step = step
            self._page.log_scores(self._metrics(tally), step)

    def _metrics(self, tally: Tally) -> dict[str, float]:
        seconds = max(1e-6, time.monotonic() - self._start_s)
        counts = {"shards": len(tally.entries), "rejected": tally.num_rejected, "missing": tally.num_missing}
        rates = {"clips_per_s": tally.times.clips / seconds, "pairs_per_s": tally.times.pairs / seconds}
        return {**counts, **rates, **{f"stage/{stage}_s": getattr(tally.times, f"{stage}_s") for stage in _STAGES}}

    def finish(self, tally: Tally, classes: Sequence[str], status: Status) -> None:
        """Log the last point and the summary, and end the run."""
        summary = {
            "reasons": dict(tally.reasons),
            "by_class": {classes[label]: {} for label, _ in tally.by_class},
            "examples": {reason: [dataclasses.asdict(r) for r in kept] for reason, kept in tally.examples.items()},
            "stages": dataclasses.asdict(tally.times),
        }
        for (label, reason), count in sorted(tally.by_class.items()):
            summary["by_class"][classes[label]][reason] = count
        self._log(tally)
        self._page.log_text(json.dumps(summary, indent=1, sort_keys=True), "summary.json")
        if self._page.finish(status):
            shutil.rmtree(self._folder, ignore_errors=True)
        console.print(f"MLflow run {self._page}", markup=False)
