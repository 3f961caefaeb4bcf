"""Look after jobs that were submitted: their state, their log, their end."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro
from rich.table import Table

from jobs.recipes.listing import print_wide
from jobs.submit.cluster import ENDED, dashboard, job_client, refusals, state
from jobs.submit.follow import POLL_S, follow
from pipeline.common.cli import console, errors, parse
from pipeline.common.printable import printable

_STOP_S = 60.0


@dataclasses.dataclass(frozen=True)
class JobArgs:
    """A job by its name."""

    job: Annotated[str, tyro.conf.Positional]
    """As jobs.submit printed it."""
    address: str = ""
    """As of jobs.submit."""


@dataclasses.dataclass(frozen=True)
class LogsArgs(JobArgs):
    """Print a job's log."""

    follow: bool = True
    """Go on until it ends."""


@dataclasses.dataclass(frozen=True)
class ListArgs:
    """List the cluster's jobs."""

    address: str = ""
    """As of jobs.submit."""


def _status(words: Sequence[str]) -> int:
    args = parse(JobArgs, args=list(words))
    address = dashboard(args.address)
    client = job_client(address)
    with refusals(address, args.job):
        job = client.get_job_info(args.job)
    console.print(
        f"job      {args.job}: {state(job)}",
        f"since    {_time(job.start_time)}{f' to {_time(job.end_time)}' if job.end_time else ''}",
        f"command  {printable(job.entrypoint)}",
        f"page     {address}/#/jobs/{args.job}",
        sep="\n",
        markup=False,
    )
    return 0


def _logs(words: Sequence[str]) -> int:
    args = parse(LogsArgs, args=list(words))
    address = dashboard(args.address)
    client = job_client(address)
    if args.follow:
        return follow(client, address, args.job, f" --address {args.address}" if args.address else "")
    with refusals(address, args.job):
        sys.stdout.write(client.get_job_logs(args.job))
    return 0


def _stop(words: Sequence[str]) -> int:
    args = parse(JobArgs, args=list(words))
    address = dashboard(args.address)
    client = job_client(address)
    until_s = time.monotonic() + _STOP_S
    with refusals(address, args.job):
        if client.get_job_status(args.job) not in ENDED:
            client.stop_job(args.job)
        while (found := client.get_job_info(args.job)).status not in ENDED and time.monotonic() < until_s:
            time.sleep(POLL_S)
    if found.status not in ENDED:
        errors.print(f"job {args.job} has not ended after {_STOP_S:.0f} s; it was asked to", markup=False)
        return 1
    console.print(f"job      {args.job}: {state(found)}; the same command submitted again goes on", markup=False)
    return 0


def _list(words: Sequence[str]) -> int:
    args = parse(ListArgs, args=list(words))
    address = dashboard(args.address)
    client = job_client(address)
    with refusals(address):
        found = [job for job in client.list_jobs() if job.submission_id]
    if not found:
        console.print(f"no job was submitted to {address}", markup=False)
        return 0
    table = Table("job", "state", "since", "command", box=None, padding=(0, 2, 0, 0))
    for job in sorted(found, key=lambda job: -(job.start_time or 0)):
        table.add_row(str(job.submission_id), state(job), _time(job.start_time), printable(job.entrypoint))
    print_wide(console, table)
    return 0


def _time(at_ms: int | None) -> str:
    if not at_ms:
        return "-"
    return f"{datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


FOLLOW_UP: dict[str, Callable[[Sequence[str]], int]] = {
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "list": _list,
}
"""By the word that stands behind ``jobs.submit``."""
