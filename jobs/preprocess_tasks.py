"""The Ray side of preprocessing: one task a shard, its retries, and the search for a video that kills its worker."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli import console
from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ReciprocalError, RejectedSource, StorageError
from pipeline.shards import ShardRecord
from pipeline.storage import Storage
from preprocessing.annotations import Source
from preprocessing.build import build_shard, make_sample
from preprocessing.plan import ShardPlan

log = logging.getLogger(__name__)
_MAX_FAILED_SHARDS = 3  # then the fault is not in a shard but in what all of them use
_CRASHES = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.LocalRayletDiedError)


# One CPU: decoder, flow and encoder each run one thread, in turn. Three retries are for lost workers and nodes; videos
# that are bad do not raise, they are rejects.
@ray.remote(num_cpus=1, max_retries=3, retry_exceptions=[StorageError])  # pyright: ignore[reportArgumentType] - Ray's stub knows only bool
def _build(plan: ShardPlan, root: Path, classes: tuple[str, ...], stored: StoredConfig, storage: Storage, crashed: dict[str, str]) -> ShardRecord:
    return build_shard(plan, root=root, classes=classes, stored=stored, storage=storage, crashed=crashed)


# No retry: dying is the answer. One source a task, so that its worker dies alone.
@ray.remote(num_cpus=1, max_retries=0)
def _survives(source: Source, root: Path, classes: tuple[str, ...], stored: StoredConfig) -> bool:
    try:
        make_sample(source, root, classes, stored)
    except RejectedSource:
        return True
    return True


def run_shards(plans: Sequence[ShardPlan], *, root: Path, classes: Sequence[str], stored: StoredConfig, storage: Storage, rejects_left: int) -> dict[str, ShardRecord]:
    """Build all shards on the connected Ray cluster; show clips a second, time left and rejects.

    Args:
        rejects_left: with more rejected sources than this the rest is cancelled.

    Returns:
        Records by ``plan.path``, of all plans.

    Raises:
        ReciprocalError: shards failed (named, with the first cause), or too many sources were rejected.
    """
    environment = {"env_vars": _local_environment()} if _single_host() else {}
    build, survives = _build.options(runtime_env=environment), _survives.options(runtime_env=environment)
    shared = (root, ray.put(tuple(classes)), stored, storage)
    running = {build.remote(plan, *shared, {}): plan for plan in plans}
    records: dict[str, ShardRecord] = {}
    failures: dict[str, str] = {}
    searched: set[str] = set()
    num_rejects, start_s = 0, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("videos", total=sum(len(p.sources) for p in plans), note="")
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            plan = running.pop(done)
            try:
                record: ShardRecord = ray.get(done)
            except _CRASHES as error:
                if plan.path in searched:
                    failures[plan.path] = f"its worker died again: {str(error).splitlines()[0]}"
                    continue
                searched.add(plan.path)
                log.warning("%s: its worker died; looking for the video that kills it", plan.path)
                crashed = _find_crashing(survives, plan, shared)
                if crashed:
                    running[build.remote(plan, *shared, crashed)] = plan
                else:
                    failures[plan.path] = f"its worker died, but no single video kills one: {str(error).splitlines()[0]}"
            except ray.exceptions.RayTaskError as error:
                failures[plan.path] = str(error.cause) if isinstance(error.cause, ReciprocalError) else str(error)
                log.error("%s failed: %s", plan.path, failures[plan.path])
            except ray.exceptions.RayError as error:
                failures[plan.path] = str(error)
                log.error("%s failed: %s", plan.path, error)
            else:
                records[plan.path] = record
                num_rejects += len(record.rejects)
                for reject in record.rejects:
                    log.info("rejected %s: %s (%s)", reject.source, reject.reason, reject.detail)
                progress.advance(bar, len(plan.sources))
                rate = progress.tasks[0].completed / (time.monotonic() - start_s)
                progress.update(bar, note=f"{rate:.2f} clips/s, {num_rejects} rejected")
                if not console.is_terminal:  # a log file shows no moving bar
                    done_clips, total = progress.tasks[0].completed, progress.tasks[0].total or 0
                    log.info("%d of %d videos, %.2f clips/s, %.0f s left, %d rejected", done_clips, total, rate, (total - done_clips) / rate, num_rejects)
            if len(failures) >= _MAX_FAILED_SHARDS or num_rejects > rejects_left:
                break
    for task in running:
        ray.cancel(task)
    if failures:
        path, cause = next(iter(failures.items()))
        raise ReciprocalError(f"{len(failures)} shards failed, {len(records)} are done; {path}: {cause}. Run the same command again to go on")
    if len(records) < len(plans):
        raise ReciprocalError(f"stopped: {num_rejects} rejected sources, only {max(rejects_left, 0)} more were allowed; mend them or raise --max-rejects")
    return records


def _find_crashing(survives: Any, plan: ShardPlan, shared: tuple) -> dict[str, str]:
    """Try every source of a shard alone; those whose worker dies, with what Ray says about it."""
    root, classes, stored, _ = shared
    tasks = [survives.remote(source, root, classes, stored) for source in plan.sources]
    crashed = {}
    for source, task in zip(plan.sources, tasks, strict=True):
        try:
            ray.get(task)
        except _CRASHES as error:
            # The class alone: the text holds process ids, and equal inputs must give equal records.
            crashed[source.name] = type(error).__name__
        except ray.exceptions.RayError as error:
            log.warning("%s: %s", source.name, str(error).splitlines()[0])
    return crashed


def _single_host() -> bool:
    here = ray.util.get_node_ip_address()
    return all(node["NodeManagerAddress"] in (here, "127.0.0.1") for node in ray.nodes() if node["Alive"])


def _local_environment() -> dict[str, str]:
    """What workers on this host need to run this checkout against this stack.

    Elsewhere the package is installed (or submitted as a working folder), and nodes have addresses and roles of their own.
    """
    root = str(Path(__file__).resolve().parent.parent)
    names = ("RECIPROCAL_HOME", "RECIPROCAL_STACK", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    if "site-packages" not in root:
        variables["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return variables


