"""The driver of a run: it holds the run's lease, starts its ranks, follows them, and ends the run's page and record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

import psutil

from jobs.cards.describe import describe_run
from jobs.cluster.connect import connect, gpus_for, wants_gpu
from jobs.cluster.errors import causes, explain
from jobs.recipes.registry import missing_start, short_chain
from jobs.train.attempts import Attempts, Group
from jobs.train.control import begin_attempt, start_control
from jobs.train.events import Change, Changes
from jobs.train.group import RayCluster, RayGroup
from jobs.train.leaving import Leaving
from jobs.train.page import data_input, run_page_of
from jobs.train.places import wait_for_ranks
from jobs.train.prepare import Prepared
from jobs.train.ranks import Need, with_ranks
from jobs.train.worker import WorkerTask
from pipeline.checkpoints.store import CheckpointStore
from pipeline.common.words import counted
from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.errors import NotFiniteError, ReciprocalError, StorageError, UserError
from pipeline.runs.facts import run_facts
from pipeline.runs.folder import RESULT, RunRecord, checkpoint_store, start_or_resume
from pipeline.storage import Storage
from pipeline.storage.lease import Lease, LeaseLostError, Timing, hold
from pipeline.tracking.entries import Status
from pipeline.tracking.page import RunPage

log = logging.getLogger("jobs.train")
_LEASE = Timing(gone_s=3.0)  # a driver's last requests are small


@contextlib.contextmanager
def hold_run(run: Storage) -> Iterator[Lease]:
    """Be the run's only driver while the block runs. A driver that gives no sign of life for a minute, or has ended on
    this machine, is taken over.

    Raises:
        UserError: another driver is alive; says who.
    """

    def refuse(holder: object) -> UserError:
        return UserError(f"{run.uri} is being trained by {holder}: wait for its end, or stop it")

    # No two drivers do the same work: each has a plan of its own.
    with hold(run, plan=secrets.token_hex(8), about={}, refuse=refuse, timing=_LEASE) as lease:
        yield lease


def record_of(prepared: Prepared) -> RunRecord:
    """What identifies the run."""
    config = prepared.config
    return RunRecord(
        config=as_dict(config),
        identity=config.identity(),
        manifest_digest=prepared.manifest.digest,
        code_version=code_version(),
    )


def drive(prepared: Prepared, run: Storage, lease: Lease, signals: Leaving) -> tuple[dict[str, Any], RunPage]:
    """Train to the end; returns what ``result.json`` holds, and the run's page.

    Raises:
        UserError, ReciprocalError: what the run ended with; the same command resumes it.
        KeyboardInterrupt: a signal came.
    """
    config, manifest, record = prepared.config, prepared.manifest, record_of(prepared)
    resuming = start_or_resume(run, record)
    _say_plan(prepared, resuming)
    connect()
    gpu = wants_gpu(config.run.use_gpu)
    config.run.check_device(gpu)
    need, cluster = need_of(config, gpu), RayCluster()
    wait_for_ranks(need, cluster, config.run.wait_minutes, lease.check)
    page = run_page_of(run, config, record, dataset=manifest.dataset)
    page.log_text(json.dumps(as_dict(config), indent=1, sort_keys=True), "config.json")
    page.log_data(data_input(manifest, config.data.uri, config.data.train_split, "training"))
    if config.data.val_split:
        page.log_data(data_input(manifest, config.data.uri, config.data.val_split, "validation"))
    page.start()
    ranks = need.most if need.least == need.most else f"{need.least} to {need.most}"
    log.info(
        "%s %s: %s, batch %d, MLflow %s",
        "resuming" if resuming else "starting",
        run.uri,
        f"{ranks} rank{'' if need.most == 1 else 's'}",
        config.data.batch_size,
        page,
    )
    facts = run_facts(
        config,
        manifest,
        code_version=record.code_version,
        run_id=config.run.run_id,
        tracking_run_id=page.tracking_run_id,
    )

    def record_change(change: Change) -> None:
        log.info("%s", change)
        page.log_event(dataclasses.asdict(change))

    control, store, newest = start_control(), checkpoint_store(config), 0

    def saved() -> int:
        nonlocal newest
        with contextlib.suppress(StorageError, OSError):  # else as of the last time
            newest = next((entry.order[0] for entry in store.entries() if entry.usable), 0)
        return newest

    def start(number: int, ranks: int) -> Group:
        nonlocal control
        control = begin_attempt(control, number)
        task = WorkerTask(
            facts=facts,
            gpu=gpu,
            start=prepared.start,
            started=(psutil.Process().create_time() if number == 1 else time.time(), time.time()),
            attempt=number,
            data=with_ranks(config, ranks).data,
            control=control,
        )
        return RayGroup(task, need, ranks)

    start_s = time.perf_counter()
    signals.patient = True
    try:
        ended = Attempts(
            need,
            cluster,
            start,
            saved=saved,
            changes=Changes(record_change, cluster.now_s),
            leaving=signals,
            check=lease.check,
            limits=config.run,
        ).run()
        lease.check(look=True)
    except LeaseLostError:
        raise  # the run, and its page, are another driver's
    except BaseException as error:
        _end_page(page, lease, "FAILED" if isinstance(error, Exception) else "KILLED")
        if found := explain(error):
            kind = UserError if isinstance(found, UserError) else ReciprocalError
            raise kind(f"training failed: {found}; {way_on(error, config, run, store)}") from error
        raise
    finally:
        signals.patient = False
        cluster.take_back()
    result = {
        "checkpoint": ended.checkpoint,
        "metrics": ended.metrics,
        "seconds": round(time.perf_counter() - start_s, 1),
        "tracking_run_id": page.tracking_run_id,
    }
    run.write(RESULT, json.dumps(result, indent=1, sort_keys=True).encode())
    page.set_tags({"checkpoint": f"{run.uri}/{result['checkpoint']}"})
    if page.finish("FINISHED"):
        describe_run(page, run)
    return result, page


def need_of(config: TrainConfig, gpu: bool) -> Need:
    """What the run asks of the connected cluster. With ``run.use_gpu`` auto and fewer GPUs than ranks, fewer ranks will
    do, unless the config says how few.
    """
    need, run = Need.of(config, gpu), config.run
    gpus = gpus_for(run.use_gpu, gpu, need.least)
    if gpus == need.least or run.min_workers:
        return need
    found = need.at_most(gpus)
    log.warning(
        "the cluster has %s for %s: the run starts with %s and the same global batch (run.use_gpu auto; with no, all"
        " of them compute on CPUs)",
        counted(gpus, "GPU"),
        counted(need.least, "rank"),
        counted(found.least, "rank"),
    )
    return found


def _say_plan(prepared: Prepared, resuming: bool) -> None:
    for line in prepared.plan.summary():
        log.info("%s", line)
    for line in prepared.warnings:
        log.warning("%s", line)
    if not resuming:
        if prepared.start:
            log.info("%s", prepared.start)
            for warning in (prepared.start.warning, short_chain(prepared.config, prepared.start.twin)):
                if warning:
                    log.warning("%s", warning)
        elif missing := missing_start(prepared.config):
            log.warning("%s", missing)


def way_on(error: BaseException, config: TrainConfig, run: Storage, store: CheckpointStore) -> str:
    """How to go on after an error that ended the run."""
    if not any(isinstance(cause, NotFiniteError) for cause in causes(error).values()):
        return "fix it and run the same command again to resume"
    newest = ""
    with contextlib.suppress(StorageError, OSError):
        newest = next((f" --start-from {run.uri}/{entry.name}" for entry in store.entries() if entry.usable), "")
    from_there = ", from the last checkpoint" if newest else ""
    rates = {"lr": config.optim.lr, "backbone-lr": config.optim.backbone_lr}
    lower = "".join(f" --optim.{name} {rate / 2:g}" for name, rate in rates.items() if rate)
    return (
        f"the same command would end there again. As a new run with lower rates{from_there}: the same command with"
        f"{newest}{lower} --run.run-id NEW"
    )


def _end_page(page: RunPage, lease: Lease, status: Status) -> None:
    """End the run's page, unless another driver has taken the run over meanwhile."""
    with contextlib.suppress(StorageError):
        lease.check(look=True)
    page.finish(status)
