"""A real run whose epochs alternate with those of the bare loop, and runs on their own; without ``jobs.train``'s
command, with all of its parts."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import safetensors.torch

from jobs.bench.training.bare import serve, weights_digest
from jobs.bench.training.paced import Turns, paced_worker
from jobs.train.attempts import Ended
from jobs.train.control import begin_attempt, start_control
from jobs.train.driver import record_of
from jobs.train.group import RayGroup
from jobs.train.page import run_page_of
from jobs.train.prepare import Prepared
from jobs.train.ranks import Need
from jobs.train.worker import WorkerTask
from pipeline.errors import ReciprocalError
from pipeline.runs.facts import run_facts
from pipeline.runs.folder import start_or_resume
from pipeline.storage import Storage, join, open_storage
from pipeline.training.loop import Outcome

_LOOK_S = 0.5  # as the driver of a run
_START_S = 180.0


@dataclasses.dataclass(frozen=True)
class Taken:
    """All turns."""

    rounds: list[dict[str, float]]
    """Seconds of each epoch but the last: of the run, of these waiting for batches, and of the bare loop."""
    same_weights: bool


def take_turns(prepared: Prepared, folder: Path, steps: int) -> Taken:
    """Run both to their end.

    Raises:
        ReciprocalError: the run failed.
    """
    address = str(folder / "turns")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    bare = spawn.Process(target=serve, args=(prepared.config, steps, theirs), daemon=True)
    bare.start()
    bare_s, run_s = list[float](), list[tuple[float, float]]()
    work = paced_worker(Turns(address, steps))
    with Listener(address, "AF_UNIX") as listener, _running(prepared, work, 1) as (run, group):
        rank = _accept(listener, group)
        for epoch in range(prepared.config.optim.epochs):
            taken_s, waited_s = _next(rank, group)
            if epoch:
                run_s.append((taken_s, waited_s))
            ours.send(epoch)
            bare_s.append(ours.recv())
            rank.send(None)
        ended = _end(group)
    ours.send(None)
    digest = ours.recv()
    bare.join()
    weights = safetensors.torch.load(run.read(f"{ended.checkpoint}/model.safetensors"))
    rounds = [
        {"run_s": taken_s, "waited_s": waited_s, "bare_s": bare}
        for (taken_s, waited_s), bare in zip(run_s, bare_s, strict=False)
    ]
    return Taken(rounds, weights_digest(weights) == digest)


def clips_per_s(prepared: Prepared, steps: int) -> float:
    """Of the last epoch of a run on its own."""
    config = dataclasses.replace(prepared.config, run=dataclasses.replace(prepared.config.run, log_steps=steps))
    with _running(dataclasses.replace(prepared, config=config), None, config.run.num_workers) as (_, group):
        return _end(group).metrics["train/clips_per_s"]


@contextlib.contextmanager
def _running(
    prepared: Prepared, work: Callable[[WorkerTask], Outcome] | None, ranks: int
) -> Iterator[tuple[Storage, RayGroup]]:
    """The ranks of a run, with its page, as ``jobs.train.driver`` starts them."""
    config, record = prepared.config, record_of(prepared)
    run = open_storage(join(config.run.output, config.run.run_id))
    start_or_resume(run, record)
    page = run_page_of(run, config, record, dataset=prepared.manifest.dataset)
    page.start()
    facts = run_facts(
        config,
        prepared.manifest,
        code_version=record.code_version,
        run_id=config.run.run_id,
        tracking_run_id=page.tracking_run_id,
    )
    control = begin_attempt(start_control(), 1)
    now_s = time.time()
    task = WorkerTask(
        facts=facts, gpu=False, start=prepared.start, started=(now_s, now_s), data=config.data, control=control
    )
    need = Need.of(config, gpu=False)
    group = RayGroup(task, need, ranks, work) if work else RayGroup(task, need, ranks)
    try:
        yield run, group
    except BaseException:
        page.finish("KILLED")
        raise
    page.finish("FINISHED")


def _end(group: RayGroup) -> Ended:
    while (ended := group.wait(_LOOK_S)) is None:
        group.progress()
    if ended.error:
        raise ReciprocalError(f"the run failed: {ended.error}") from ended.error
    return ended


def _next(rank: Connection, group: RayGroup) -> Any:
    while not rank.poll(_LOOK_S):
        if group.wait(0):
            _end(group)
        group.progress()
    return rank.recv()


def _accept(listener: Listener, group: RayGroup) -> Connection:
    deadline_s = time.monotonic() + _START_S
    listener._listener._socket.settimeout(_LOOK_S)  # type: ignore[attr-defined] - it has no way of its own
    while True:
        with contextlib.suppress(TimeoutError):
            return listener.accept()
        if group.wait(0):
            _end(group)
        if time.monotonic() > deadline_s:
            raise ReciprocalError(f"the run's rank did not start within {_START_S:.0f} s")
