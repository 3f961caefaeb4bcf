"""What of the connected cluster is free, and who has the rest, for a command that waits."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.util import state

from jobs.cluster.connect import is_private

log = logging.getLogger(__name__)
_TIMEOUT_S = 3
_FIRST_NOTICE_S, _NOTICE_S, _LOOK_S = 15.0, 60.0, 2.0
_MOST_CHARACTERS = 60  # of another command's line
_MOST_SHOWN = 3


class WaitNotice:
    """Called while tasks of this command are pending: says now and then that none of them runs, and why."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _FIRST_NOTICE_S

    def __call__(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _NOTICE_S
        if (users := other_users()) and _runs_nothing():
            log.info("waiting for free CPUs: %s; in use by %s", free_resources(gpus=False), users)


def wait_for(task: Any) -> Any:
    """The result of a task, as ``ray.get`` gives it; where it has to wait for the cluster, the log says so."""
    notice = WaitNotice()
    while not ray.wait([task], timeout=_LOOK_S)[0]:
        notice()
    return ray.get(task)


def _runs_nothing() -> bool:
    """Whether Ray says that no task of this command runs."""
    filters: Any = [("job_id", "=", ray.get_runtime_context().get_job_id()), ("state", "=", "RUNNING")]
    try:
        with _quiet():
            return not state.list_tasks(filters=filters, timeout=_TIMEOUT_S, raise_on_missing_output=False)
    except Exception as error:  # as in ``other_users``
        log.debug("Ray does not say what runs: %s", error)
        return False


def free_resources(*, gpus: bool) -> str:
    """``0 of 8 CPUs are free``, with ``gpus`` also ``and 1 of 2 GPUs``."""
    total, free = ray.cluster_resources(), ray.available_resources()
    cpus = f"{free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs are free"
    return f"{cpus} and {free.get('GPU', 0):g} of {total.get('GPU', 0):g} GPUs" if gpus else cpus


def other_users() -> str:
    """The other commands on the cluster that hold CPUs or GPUs, as far as Ray tells: ``python -m jobs.train crn_demo
    (2 CPUs)``; empty where it does not, and where this process is connected to no Ray or has one of its own.
    """
    if not ray.is_initialized() or is_private():  # Ray's own functions would start one, or wait for a dashboard
        return ""
    try:
        with _quiet():
            users = _by_job()
    except Exception as error:  # without a dashboard, or with one that is busy, Ray raises various kinds
        log.debug("Ray does not say who uses the cluster: %s", error)
        return ""
    shown = [f"{name} ({_amount(cpus, gpus)})" for name, cpus, gpus in users[:_MOST_SHOWN]]
    return ", ".join(shown) + (f" and {len(users) - _MOST_SHOWN} more" if len(users) > _MOST_SHOWN else "")


def _by_job() -> list[tuple[str, float, float]]:
    """(command, CPUs, GPUs) of every other job that holds some, the largest first."""
    mine = ray.get_runtime_context().get_job_id()
    how: dict[str, Any] = {"detail": True, "timeout": _TIMEOUT_S, "raise_on_missing_output": False}
    actors = state.list_actors(filters=[("state", "=", "ALIVE")], **how)
    tasks = state.list_tasks(filters=[("state", "=", "RUNNING")], **how)
    cpus: dict[str, float] = defaultdict(float)
    gpus: dict[str, float] = defaultdict(float)
    # The work of an actor is done by tasks, which hold nothing of their own.
    for user in [*actors, *(task for task in tasks if getattr(task, "type", "") == "NORMAL_TASK")]:
        if user.job_id != mine:
            cpus[user.job_id] += _held(user.required_resources, "CPU")
            gpus[user.job_id] += _held(user.required_resources, "GPU")
    names = {job.job_id: job.entrypoint for job in state.list_jobs(timeout=_TIMEOUT_S)}
    found = [(_short(names.get(job) or f"job {job}"), cpus[job], gpus[job]) for job in cpus]
    return sorted((user for user in found if user[1] or user[2]), key=lambda user: (-user[1], user[0]))


def _held(resources: Mapping[str, float] | None, kind: str) -> float:
    """In a placement group the same CPU appears as CPU_group_ID and as CPU_group_INDEX_ID."""
    found = (n for name, n in (resources or {}).items() if name == kind or name.startswith(f"{kind}_group_"))
    return max(found, default=0.0)


def _amount(cpus: float, gpus: float) -> str:
    both = ((cpus, "CPU"), (gpus, "GPU"))
    return ", ".join(f"{number:g} {noun}{'' if number == 1 else 's'}" for number, noun in both if number)


def _short(command: str) -> str:
    text = " ".join(command.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray logs a warning about each answer that is not complete."""
    logger = logging.getLogger("ray.util.state")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
