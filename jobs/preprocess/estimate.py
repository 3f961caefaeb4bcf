"""Estimate what a data set will cost, from a timed sample of the user's own videos."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
import ray
from rich import filesize
from rich.table import Table

from jobs.cluster.occupancy import wait_for
from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.summary import split_missing, stage_line
from jobs.preprocess.tasks import Job, Resources, remote_options
from pipeline.common.cli import console
from pipeline.common.words import counted
from pipeline.errors import ReciprocalError, RejectedSource
from pipeline.storage.scratch import scratch_folder
from preprocessing.shard.plan import PlannedSource, ShardPlan
from preprocessing.shard.stages import make_samples
from preprocessing.shard.work import StageTimes

_PART_BYTES = 64 << 20  # of a multipart upload


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipCost:
    """One video of the timed sample."""

    source: str
    reject: str | None
    frames: int
    stored_bytes: int
    seconds: float
    times: StageTimes


def time_clip(planned: PlannedSource, job: Job) -> ClipCost:
    """Make one sample in a temporary folder, discard it, and return what it cost."""
    times = StageTimes()
    reject, frames, stored_bytes = None, 0, 0
    start_s = time.perf_counter()
    with scratch_folder() as folder:
        for _, made in make_samples([planned], job.store, job.spec.classes, job.spec.stored, folder, times=times):
            if isinstance(made, RejectedSource):
                reject = made.reason
            else:
                sizes = [len(m) if isinstance(m, bytes) else m.stat().st_size for m in made.members.values()]
                frames, stored_bytes = made.record.num_frames, sum(512 + -(-size // 512) * 512 for size in sizes)
    return ClipCost(
        source=planned.source.name,
        reject=reject,
        frames=frames,
        stored_bytes=stored_bytes,
        seconds=time.perf_counter() - start_s,
        times=times,
    )


@ray.remote
def _time_clips(sources: Sequence[PlannedSource], job: Job) -> list[ClipCost]:
    time_clip(sources[0], job)  # compile the kernels first: that is not a cost of a clip
    return [time_clip(source, job) for source in sources]


def estimate(plans: Sequence[ShardPlan], job: Job, resources: Resources, config: PreprocessConfig) -> dict[str, float]:
    """Time a few videos on the cluster and print what the whole data set will take.

    Returns:
        The printed figures: pairs, core_hours, gpu_hours, cluster_hours (on the cluster as it is), source_bytes,
            stored_bytes, puts, gets.

    Raises:
        ReciprocalError: every video of the sample was rejected.
    """
    present = [planned for plan in plans for planned in plan.present]
    if not present:
        raise ReciprocalError("none of the listed videos exists; nothing can be timed")
    step = max(1, len(present) // config.dry_run_clips)
    sample = present[::step][: config.dry_run_clips]  # the plan's order is shuffled
    console.print(
        f"timing {len(sample)} of {len(present)} videos ({job.spec.stored.flow_engine} flow, short side"
        f" {job.spec.stored.short_side})"
    )
    timed = _time_clips.options(max_retries=0, **remote_options(resources))
    costs: list[ClipCost] = wait_for(timed.remote(sample, job))
    good = [cost for cost in costs if cost.reject is None]
    if not good:
        raise ReciprocalError(
            "every video of the sample was rejected: " + ", ".join(f"{c.source}: {c.reject}" for c in costs[:5])
        )
    figures = _figures(plans, costs, good, resources, present)
    _print(figures, sum((c.times for c in costs), StageTimes()), plans, present, costs)
    return figures


def _figures(
    plans: Sequence[ShardPlan],
    costs: Sequence[ClipCost],
    good: Sequence[ClipCost],
    resources: Resources,
    present: Sequence[PlannedSource],
) -> dict[str, float]:
    count = len(present)
    flow_s = np.array([c.times.flow_s for c in costs])
    work_s = np.array(
        [
            sum(getattr(c.times, f"{stage}_s") for stage in ("fetch", "decode", "flow", "encode", "verify"))
            for c in costs
        ]
    )
    gpu = resources.num_gpus > 0
    core_s, gpu_s = (work_s - flow_s, flow_s) if gpu else (work_s, 0 * flow_s)
    stored_bytes = count * len(good) / len(costs) * float(np.mean([c.stored_bytes for c in good]))
    shards = sum(1 for plan in plans if plan.present)
    parts = 0 if stored_bytes / shards < _PART_BYTES else shards * (2 + math.ceil(stored_bytes / shards / _PART_BYTES))
    cluster = ray.cluster_resources()
    slots = cluster.get("GPU", 0) / resources.num_gpus if gpu else cluster.get("CPU", 1) / resources.num_cpus
    return {
        "pairs": count * float(np.mean([c.times.pairs for c in costs])),
        "core_hours": count * float(core_s.mean()) / 3600,
        "core_hours_error": (
            count * float(core_s.std(ddof=1)) / math.sqrt(len(costs)) / 3600 if len(costs) > 1 else math.nan
        ),
        "gpu_hours": count * float(gpu_s.mean()) / 3600,
        "cluster_hours": count * float(np.mean([c.seconds for c in costs])) / 3600 / max(1.0, slots),
        "source_bytes": float(sum(plan.num_bytes for plan in plans)),
        "stored_bytes": stored_bytes,
        "puts": float(2 * shards + len(plans) + parts + 1 if parts else 3 * shards + (len(plans) - shards) + 1),
        "gets": float(count + 2 * len(plans) + shards),  # each record at the start and at the end, each tar's size
    }


def _error(hours: float) -> str:
    """The standard error as printed; one video has none."""
    return " (one video says nothing about the spread)" if math.isnan(hours) else f" ± {hours:.2f}"


def _print(
    figures: dict[str, float],
    times: StageTimes,
    plans: Sequence[ShardPlan],
    present: Sequence[PlannedSource],
    costs: Sequence[ClipCost],
) -> None:
    table = Table(title="what it will take", title_justify="left", show_header=False)
    rows = {
        "videos": (
            f"{len(present)} found, {len(split_missing(plans)[0])} missing; "
            f"{filesize.decimal(int(figures['source_bytes']))} to read"
        ),
        "shards": f"{len(plans)}, {sum(1 for p in plans if p.present)} with samples",
        "frame pairs": f"{figures['pairs']:,.0f}",
        "core-hours": f"{figures['core_hours']:.2f}{_error(figures['core_hours_error'])}",
        "GPU-hours": f"{figures['gpu_hours']:.2f}",
        "on this cluster": f"{figures['cluster_hours']:.2f} h",
        "storage": filesize.decimal(int(figures["stored_bytes"])),
        "requests": f"{figures['puts']:,.0f} PUT, {figures['gets']:,.0f} GET or HEAD",
        "stages": stage_line(times),
        "sample": (
            f"{counted(len(costs), 'video')}, {sum(c.reject is not None for c in costs)} rejected,"
            f" {np.mean([c.frames for c in costs if c.reject is None]):.0f} frames on average"
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print("nothing was written (--dry-run)")
