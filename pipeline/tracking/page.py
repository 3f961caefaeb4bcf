"""A run's journal and its page on the tracking server, which a thread brings up to date.

    page = RunPage(run, record)
    page.start()                      # RUNNING; says so where the tracking server does not answer, and goes on
    page.set_tags(...), page.log_event(...)
    page.finish("FINISHED")           # sends the rest, for at most half a minute

Workers write to the same journal (``RunJournal``), and this thread sends their points too. A tracking server that is
down, hangs or refuses costs warnings and nothing else; what it did not take is sent by the next command that opens the
page, or by ``python -m jobs.sync RUN``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import threading
import time
from collections.abc import Iterator

from pipeline.common.cli import one_line
from pipeline.common.words import counted
from pipeline.errors import StorageSetupError
from pipeline.storage import Storage
from pipeline.tracking.entries import Entry, PageRecord, Status, now_ms
from pipeline.tracking.journal import PAGE, RunJournal, last_status, read_page, read_sent
from pipeline.tracking.runs import address
from pipeline.tracking.send import Sender

log = logging.getLogger(__name__)
START_S, FINISH_S = 15.0, 30.0  # of waiting for the tracking server, at a command's start and end
_MOST_WAIT_S = 30.0  # between two attempts
_FULL = {errno.ENOSPC, errno.EDQUOT}


class RunPage(RunJournal):
    """See the module. Nothing but ``__init__`` raises for a tracking server or a storage that fails."""

    def __init__(self, run: Storage, record: PageRecord, every_s: float = 3.0) -> None:
        """Store ``record``, which keeps the time of an older one's start. Raises StorageError.

        Args:
            every_s: seconds between two looks at the journal.
        """
        super().__init__(run, every_s)
        if old := read_page(run):
            kept = record.tracking_run_id or old.tracking_run_id
            record = dataclasses.replace(record, started_ms=old.started_ms, tracking_run_id=kept)
        if record != old:
            run.write(PAGE, json.dumps(dataclasses.asdict(record), sort_keys=True).encode())
        self.record = record
        self._sender: Sender | None = None
        self._sending: threading.Thread | None = None
        self._tried, self._finishing, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._problem, self._sent_all = "", False

    @property
    def tracking_run_id(self) -> str:
        """MLflow's id of the page; empty as long as no tracking server has made it."""
        if self._sender is not None and self._sender.tracking_run_id:
            return self._sender.tracking_run_id
        return read_sent(self._run).tracking_run_id or self.record.tracking_run_id

    def __str__(self) -> str:
        """Address of the page, or what to do where there is none yet."""
        if self._sender is None or not self._sender.experiment_id:
            return f"none yet: MLflow at {address()} has not made it; python -m jobs.sync {self._run.uri} does later"
        return f"{address()}/#/experiments/{self._sender.experiment_id}/runs/{self._sender.tracking_run_id}"

    def put_right(self, status: Status) -> None:
        """Give a run whose last command was killed the status that it has, as of its last entry. Nothing happens where
        the command ended the run. Raises StorageError.
        """
        last, last_ms = last_status(self._run)
        if last in (None, "RUNNING"):
            self._add(Entry(status=status, at_ms=last_ms or now_ms(), if_running=True))

    def start(self, wait_s: float = START_S) -> None:
        """The run begins, or goes on. Waits at most ``wait_s`` for the tracking server's first answer."""
        self.set_status("RUNNING")
        self.open(wait_s)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start, and finish as the block ends: FINISHED, FAILED by an error or KILLED by an interruption."""
        self.start()
        try:
            yield
        except BaseException as error:
            self.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self.finish("FINISHED")

    def open(self, wait_s: float = 0.0) -> None:
        """Begin to send, whatever the journal holds and will hold."""
        self._sending = threading.Thread(target=self._send_on, name="mlflow", daemon=True)
        self._sending.start()
        if wait_s and not self._tried.wait(wait_s):
            self._warn(f"does not answer within {wait_s:.0f} s")

    def finish(self, status: Status | None = None, wait_s: float = FINISH_S) -> bool:
        """Send the rest and end; returns whether the page has all.

        Args:
            status: of the run; None leaves it as it is.
            wait_s: after which one line says what is left and how to send it.
        """
        until_s = time.monotonic() + wait_s
        if status is not None:
            self.set_status(status)
        if self._sending is None:
            self.open()
        self.close(wait_s)
        self._finishing.set()
        self._ended.wait(max(0.1, until_s - time.monotonic()))
        self._ended.set()
        if not self._sent_all:
            log.warning(
                "MLflow at %s does not have all of this run (%s): the rest is kept in %s/journal, and"
                " `python -m jobs.sync %s` sends it",
                address(),
                self._problem or f"no answer within {wait_s:.0f} s",
                self._run.uri,
                self._run.uri,
            )
        return self._sent_all

    def _send_on(self) -> None:
        failures, since_s = 0, time.monotonic()
        while not self._ended.is_set():
            last = self._finishing.is_set()  # the journal is complete: if this attempt succeeds, so is the page
            try:
                self._sender = self._sender or Sender(self._run)
                self._sender.send()
                if failures > 1:
                    log.info("MLflow answers again after %.0f s, and has what it missed", time.monotonic() - since_s)
                failures, self._problem = 0, ""
                if last:
                    self._end(self._sender)
            except Exception as error:  # MLflow raises whatever its HTTP library raises; none of it may end the run
                since_s = since_s if failures else time.monotonic()
                failures, self._problem = failures + 1, problem_of(error)
                if failures == 2:  # the first may have been one lost answer
                    self._warn(f"fails ({self._problem})")
                if last and _stays(error):
                    self._ended.set()
            if failures != 1:
                self._tried.set()
            if last or failures == 1:
                self._ended.wait(1.0)
            else:
                self._finishing.wait(min(_MOST_WAIT_S, self._every_s * 2 ** min(failures, 10)))

    def _end(self, sender: Sender) -> None:
        sender.save()
        left = sender.num_left()
        self._problem, self._sent_all = f"it refuses {counted(left, 'entry', 'entries')}", left == 0
        self._ended.set()

    def _warn(self, problem: str) -> None:
        log.warning(
            "MLflow at %s %s; the run goes on, its curves are kept in %s/journal and sent when it answers",
            address(),
            problem,
            self._run.uri,
        )


def _stays(error: Exception) -> bool:
    """Whether only a person can mend it, so that waiting at the end of a command is in vain."""
    return isinstance(error, StorageSetupError) or (isinstance(error, OSError) and error.errno in _FULL)


def problem_of(error: BaseException) -> str:
    """What is wrong with the tracking server, in few words where it cannot be reached: HTTP libraries take 400."""
    text = str(error)
    if "Connection refused" in text:
        return "nothing listens there"
    if "Read timed out" in text or "ConnectTimeout" in text:
        return "no answer in time"
    return one_line(error)
