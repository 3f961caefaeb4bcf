"""The Ray side of preprocessing: one task per shard, its retries, and the search for a video that kills its worker."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.exceptions

from jobs.cluster.errors import explain
from jobs.cluster.submit import run_tasks
from jobs.preprocess.policy import Decision, Ending, History, decide
from jobs.preprocess.progress import ProgressView, Reporter, make_board
from jobs.preprocess.tally import Outcome
from pipeline.common.words import counted
from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ReciprocalError, StorageError
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder
from preprocessing.shard.build import ShardSpec, build_shard
from preprocessing.shard.plan import PlannedSource, ShardPlan
from preprocessing.shard.stages import engine_for, make_samples
from preprocessing.shard.work import StageTimes
from preprocessing.sources import SourceStore

log = logging.getLogger(__name__)
_CRASHES = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.LocalRayletDiedError)
_GPU_TASK_CPUS = 2
_MOST_GPU_TASKS = 6  # on one GPU: the buffers of each take an eighth of its memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What every task needs."""

    store: SourceStore
    spec: ShardSpec
    storage: Storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task takes."""

    num_cpus: float
    num_gpus: float


# The three retries are for lost workers and nodes, and for storage that failed. Bad videos do not raise: they become
# rejects.
@ray.remote(max_retries=3, retry_exceptions=[StorageError])  # pyright: ignore[reportArgumentType]
def _build(plan: ShardPlan, job: Job, crashed: dict[str, str], board: Any) -> Outcome:
    times = StageTimes()
    record = build_shard(
        plan,
        store=job.store,
        spec=job.spec,
        storage=job.storage,
        crashed=crashed,
        times=times,
        progress=Reporter(board, plan.path, times),
    )
    return Outcome.of(record, times)


# No retry: dying is the answer. One source per task, so that nothing else dies with it.
@ray.remote(max_retries=0)
def _survives(planned: PlannedSource, job: Job) -> bool:
    with scratch_folder() as folder:
        for _ in make_samples([planned], job.store, job.spec.classes, job.spec.stored, folder, times=StageTimes()):
            pass
    return True


@ray.remote
def _describe(stored: StoredConfig) -> dict[str, Any]:
    return engine_for(stored).describe()


def spec_for(classes: Sequence[str], stored: StoredConfig, gpu_share: float) -> ShardSpec:
    """The spec with the engine that the tasks will use: a GPU engine describes itself on a node with a GPU."""
    if stored.flow_engine != "torch" or "flow" not in stored.modalities or not ray.is_initialized():
        return ShardSpec.of(classes, stored)
    resources = resources_for(
        ShardSpec(classes=tuple(classes), stored=stored, flow={"engine": "torch"}, parameter_hash=""), gpu_share
    )
    return ShardSpec.of(classes, stored, ray.get(_describe.options(**remote_options(resources)).remote(stored)))


def resources_for(spec: ShardSpec, gpu_share: float) -> Resources:
    """One core for a CPU engine, which its stages share. A GPU engine needs two, to decode and encode meanwhile.

    Args:
        gpu_share: ``PreprocessConfig.gpu_share``.
    """
    if spec.flow is not None and spec.flow["engine"] == "torch" and ray.cluster_resources().get("GPU", 0) > 0:
        share = gpu_share or share_for([node["Resources"] for node in ray.nodes() if node["Alive"]])
        return Resources(num_cpus=_GPU_TASK_CPUS, num_gpus=share)
    return Resources(num_cpus=1, num_gpus=0)


def share_for(nodes: Sequence[Mapping[str, float]]) -> float:
    """Part of a GPU for each task, so that on every node with GPUs the tasks take the CPUs and no GPU is left out.

    Args:
        nodes: resources of each node, as Ray names them.
    """
    tasks = [int(node.get("CPU", 0) / node["GPU"]) // _GPU_TASK_CPUS for node in nodes if node.get("GPU", 0) >= 1]
    each = min(_MOST_GPU_TASKS, max(1, min(tasks, default=1)))
    return int(10_000 / each) / 10_000  # Ray counts in ten-thousandths: rounded up, the last task would find no room


def remote_options(resources: Resources) -> dict[str, Any]:
    """Options of a task on the connected cluster."""
    return {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One task to build a shard."""

    plan: ShardPlan
    crashed: dict[str, str]
    """Sources not to be opened, because they killed their worker, with what Ray said about it."""


def run_shards(
    plans: Sequence[ShardPlan],
    job: Job,
    resources: Resources,
    *,
    done: Callable[[Outcome], bool],
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Build shards on the connected Ray cluster; show progress.

    Args:
        done: gets every finished shard once, as it finishes; returns whether the run may continue. If not, what is in
            flight is cancelled.
        waiting: called every few seconds; what it raises ends the run as well.

    Raises:
        ReciprocalError: shards failed; names them, with the first cause. What was finished is stored.
    """
    options = remote_options(resources)
    build, survives = _build.options(**options), _survives.options(**options)
    shared, board = ray.put(job), make_board()
    # The largest first: the last tasks to end are then small ones, and no core waits long for them.
    largest_first = sorted(plans, key=lambda plan: -plan.num_bytes)
    again: deque[_Attempt] = deque()
    failures: dict[str, str] = {}

    def meanwhile() -> None:
        waiting()
        view.refresh()

    first_error: Exception | None = None
    searched: set[str] = set()
    with (
        ProgressView(board, len(plans), sum(len(p.present) for p in plans), gpus=resources.num_gpus > 0) as view,
        contextlib.closing(
            run_tasks(
                (_Attempt(plan=plan, crashed={}) for plan in largest_first),
                lambda attempt: build.remote(attempt.plan, shared, attempt.crashed, board),
                again=again,
                waiting=meanwhile,
            )
        ) as attempts,
    ):
        for attempt, result in attempts:
            plan = attempt.plan
            may_continue = True
            if isinstance(result, Outcome):
                _show(view, plan, result)
                may_continue = done(result)
            history = History(
                searched=plan.path in searched, num_failed=len(failures), too_many_rejects=not may_continue
            )
            decision = decide(_ending(result), history)
            if decision is Decision.SEARCH_AND_RETRY:
                log.warning("%s: its worker died; looking for the video that kills it", plan.path)
                searched.add(plan.path)
                again.append(_Attempt(plan=plan, crashed=_find_crashing(survives, plan, shared)))
                continue
            if not isinstance(result, Outcome):
                failures[plan.path], first_error = str(explain(result)), first_error or result
                log.error("%s failed: %s", plan.path, failures[plan.path])
            if decision is Decision.STOP_RUN:
                break
        view.refresh()
    if failures:
        path, cause = next(iter(failures.items()))
        raise ReciprocalError(
            f"{counted(len(failures), 'shard')} failed; {path}: {cause}. Run the same command again to continue"
        ) from first_error


def _ending(result: Outcome | ray.exceptions.RayError) -> Ending:
    if isinstance(result, Outcome):
        return Ending.STORED
    return Ending.WORKER_DIED if isinstance(result, _CRASHES) else Ending.FAILED


def _show(view: ProgressView, plan: ShardPlan, outcome: Outcome) -> None:
    """Count a stored shard, and log the videos that were rejected for what is in them."""
    rejects = [reject for reject in outcome.rejects if reject.reason != "missing"]
    view.shard_done(plan.path, len(plan.present), outcome.times.pairs, len(rejects))
    for reject in rejects:
        log.info("rejected %s: %s (%s)", reject.source, reject.reason, reject.detail)


def _find_crashing(survives: Any, plan: ShardPlan, job: Any) -> dict[str, str]:
    """Try every source of a shard in a task of its own; returns those whose worker died, with Ray's error class."""
    sources = [planned.source for planned in plan.present]
    tasks = [survives.remote(planned, job) for planned in plan.present]
    crashed = {}
    for source, task in zip(sources, tasks, strict=True):
        try:
            ray.get(task)
        except _CRASHES as error:
            # Only the class: the text contains process ids, and equal inputs must give equal records.
            crashed[source.name] = type(error).__name__
        except ray.exceptions.RayError as error:
            log.warning("%s: %s", source.name, str(error).splitlines()[0])
    return crashed
