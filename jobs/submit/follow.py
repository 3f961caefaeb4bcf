"""Follow a submitted job to its end."""

from __future__ import annotations

import asyncio
import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient

from jobs.submit.cluster import ENDED, refusals, state
from pipeline.common.cli import console, errors
from pipeline.common.printable import printable
from pipeline.errors import ReciprocalError, UserError

POLL_S = 1.0
_MOMENTS = 20
_LOST_S = 30.0  # a head that is busy, or a connection that was cut
_STOPPED = 143  # as a shell says it of SIGTERM


def follow(client: JobSubmissionClient, address: str, name: str, where: str = "") -> int:
    """Print a job's log as it grows, to the job's end; returns the job's exit code.

    Raises:
        UserError: there is no such job.
        ReciprocalError: the cluster went away for longer than half a minute.
    """
    with refusals(address, name):
        client.get_job_status(name)  # a log that there is none of has no error of its own
    try:
        printed, lost_s = 0, 0.0
        while True:
            try:
                with refusals(address, name):
                    printed = asyncio.run(_tail(client, name, printed))
                    ended = _has_ended(client, name)
                    lost_s = 0.0
            except UserError:
                raise
            except ReciprocalError:
                lost_s = lost_s or time.monotonic()
                if time.monotonic() - lost_s > _LOST_S:
                    raise
                ended = False
            if ended:
                return _ended(client, address, name, printed)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        errors.print(
            f"\nthe job goes on; python -m jobs.submit logs {name}{where} comes back to it, python -m jobs.submit stop"
            f" {name}{where} ends it",
            markup=False,
        )
        return 130


def _has_ended(client: JobSubmissionClient, name: str) -> bool:
    """Whether a job whose log has ended has done so too; the server says it a moment later."""
    for _ in range(_MOMENTS):
        if client.get_job_status(name) in ENDED:
            return True
        time.sleep(POLL_S / _MOMENTS)
    return False


async def _tail(client: JobSubmissionClient, name: str, printed: int) -> int:
    """Print what comes after the first ``printed`` characters until the connection ends; returns how many there are
    now. The server sends a log from its beginning each time.
    """
    seen = 0
    async for text in client.tail_job_logs(name):
        new = text[max(0, printed - seen) :]
        seen += len(text)
        if new:
            sys.stdout.write(new)
            sys.stdout.flush()
    return max(printed, seen)


def _ended(client: JobSubmissionClient, address: str, name: str, printed: int) -> int:
    with refusals(address, name):
        sys.stdout.write(client.get_job_logs(name)[printed:])  # where the connection was cut before the end
        sys.stdout.flush()
        job = client.get_job_info(name)
    console.print(f"job      {name}: {state(job)}", markup=False)
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return _STOPPED
    if job.driver_exit_code is None and job.message:
        errors.print(printable(job.message)[:500], markup=False)
    return job.driver_exit_code or 1
