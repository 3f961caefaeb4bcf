"""Bring the pages of runs up to date: send what the tracking server missed, and put right what was killed.

    python -m jobs.sync RUN                      # run id or s3://.../runs/RUN_ID
    python -m jobs.sync s3://BUCKET/runs         # every run of a folder

Reads    RUN/journal: curves, results, tags and files that commands on the run logged while the server was away.
Writes   the run's MLflow page, made where there is none, and RUN/journal/sent.json. A run that says RUNNING but has no
         command any more becomes KILLED (FINISHED where it had finished), as of its last entry.
Restart  any number of times: each point is on the page once. A run with a live command is left to it.
Exit     0 all pages are complete; 1 a tracking server did not take everything; 2 refused.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

import tyro

from jobs.cards.describe import describe_run
from jobs.train.page import open_page
from pipeline.common.cli import console, parse, run_main
from pipeline.common.words import counted
from pipeline.errors import ConfigError, UserError
from pipeline.runs.folder import RESULT, RUN, open_run
from pipeline.storage import Storage, join, open_storage
from pipeline.storage.lease import hold
from pipeline.storage.lease_holder import Holder
from pipeline.tracking.journal import PAGE, last_status, read_page
from pipeline.tracking.page import RunPage

log = logging.getLogger("jobs.sync")


@dataclasses.dataclass(frozen=True)
class SyncArgs:
    """Bring the pages of runs up to date."""

    run: Annotated[str, tyro.conf.Positional]
    """Run id (on the local stack), URI of a run's folder, or URI of a folder of runs."""
    wait_s: float = 30.0
    """Seconds to wait for the tracking server, for each run."""

    def __post_init__(self) -> None:
        if self.wait_s <= 0:
            raise ConfigError("wait_s", self.wait_s, "must be positive")


class InUseError(UserError):
    """A command works on the run: it sends by itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and send."""
    args = parse(SyncArgs, args=argv, description=__doc__)
    runs = find_runs(args.run)
    complete = 0
    for run in runs:
        try:
            complete += sync(run, args.wait_s)
        except InUseError as error:
            if len(runs) == 1:
                raise
            complete += 1
            log.info("%s", error)
    if len(runs) > 1:
        console.print(f"{complete} of {counted(len(runs), 'page')} complete")
    return 0 if complete == len(runs) else 1


def find_runs(name: str) -> list[Storage]:
    """The run of this id or URI, or all runs of the folder. Raises UserError where there is none."""
    if "://" not in name:
        return [open_run(name)]
    folder = open_storage(name)
    if folder.uri.startswith("s3://"):
        folder.probe(write=False)
    found = {path for path in folder.list() if path.endswith((PAGE, RUN))}
    if found & {PAGE, RUN}:
        return [folder]
    names = sorted({str(PurePosixPath(path.removesuffix(PAGE).removesuffix(RUN))) for path in found})
    if not names:
        raise UserError(f"{folder.uri} holds no run: give the folder that jobs.train printed, or the one that it is in")
    return [open_storage(join(folder.uri, name)) for name in names]


def sync(run: Storage, wait_s: float) -> bool:
    """Complete a run's page; returns whether the tracking server took everything.

    Raises:
        InUseError: a live command works on the run.
    """
    if last_status(run)[0] in (None, "RUNNING") and not run.exists(RESULT):
        # Only the lease tells a command that was killed from one that trains.
        with hold(run, plan=secrets.token_hex(8), about={"command": "jobs.sync"}, refuse=_refuse(run)):
            page = _page(run)
            page.put_right("KILLED")
            page.flush()
    else:
        page = _page(run)
    done = page.finish(wait_s=wait_s)
    if done:
        describe_run(page, run)
    console.print(f"run      {run.uri}", f"page     {page}", sep="\n", markup=False)
    return done


def _page(run: Storage) -> RunPage:
    record = read_page(run)
    if record is None:
        return open_page(run)
    page = RunPage(run, record)
    if run.exists(RESULT):
        page.put_right("FINISHED")
    return page


def _refuse(run: Storage):
    def refuse(holder: Holder) -> InUseError:
        return InUseError(f"{run.uri} is worked on by {holder}, whose command sends what there is")

    return refuse


if __name__ == "__main__":
    run_main(main)
