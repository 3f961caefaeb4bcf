"""A run's journal: what its MLflow page is to show, kept in the run's folder whether or not MLflow is there.

    RUN/journal/000000-3f2a81c0.jsonl   entries (pipeline.tracking.entries), one a line
    RUN/journal/page.json               how to find or make the page
    RUN/journal/sent.json               how much of the journal the page has
    RUN/events.jsonl                    what happened to the run's ranks, one line of JSON an event

Object storage cannot append, so a writer keeps a segment in memory and stores the whole of it again every few seconds;
a full one (256 KiB) is followed by another. Each writer (the command, rank 0 of each attempt) has segments of its own,
whose numbers follow those that were there when it began. This module does not import MLflow: workers need neither the
library nor a password.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.printable import printable
from pipeline.common.strict_json import JsonError, read_json
from pipeline.common.words import counted
from pipeline.errors import NotFoundError
from pipeline.storage import Storage
from pipeline.tracking.entries import DataInput, Entry, PageRecord, SentRecord, Status, now_ms, plain_numbers

log = logging.getLogger(__name__)
T = TypeVar("T")
FOLDER = "journal"
PAGE, SENT = f"{FOLDER}/page.json", f"{FOLDER}/sent.json"
EVENTS = "events.jsonl"
_SEGMENT = re.compile(FOLDER + r"/(\d+)-([0-9a-f]+)\.jsonl")
_SEGMENT_BYTES = 256 << 10
_EVERY_S = 3.0


class RunJournal:
    """Writes a journal. What ``log_...`` and ``set_...`` take is stored by a thread: they never wait and never fail."""

    def __init__(self, run: Storage, every_s: float = _EVERY_S) -> None:
        """Nothing is read or written yet.

        Args:
            run: the run's folder.
            every_s: seconds between two writes, while there is something to write.
        """
        self._run, self._every_s = run, every_s
        self._lock, self._writing = threading.Lock(), threading.Lock()  # of the lines that wait; of the segment
        self._lines: list[bytes] = []
        self._events: list[bytes] = []
        self._path, self._segment = "", b""
        self._stop, self._thread = threading.Event(), None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point to each curve; names may contain ``/``. Steps of a name must rise: others are left out when the
        journal is sent, so that steps which a restarted run does again appear once.
        """
        self._add(Entry(step=step, curve=plain_numbers(metrics)))

    def log_scores(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add results that may be logged again at the same step, such as those of an evaluation."""
        self._add(Entry(step=step, scores=plain_numbers(metrics)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the page; the last value of each stays."""
        self._add(Entry(tags={key: printable(value) for key, value in tags.items()}))

    def log_data(self, data: DataInput) -> None:
        """Add a split of a data set that the run reads; the same one again adds nothing."""
        self._add(Entry(data=data))

    def log_text(self, text: str, name: str) -> None:
        """Add an artifact with this text."""
        self._add(Entry(text=text, name=name))

    def log_object(self, path: str, name: str) -> None:
        """Add an artifact: the bytes of an object of the run's folder, as they are when they are sent."""
        self._add(Entry(path=path, name=name))

    def log_file(self, file: Path, name: str) -> None:
        """Add an artifact with a file's bytes; they are stored in the folder, at once. Raises StorageError."""
        self._run.write_file(name, file)
        self.log_object(name, name)

    def set_status(self, status: Status) -> None:
        """Set what the page says of the run."""
        self._add(Entry(status=status))

    def log_event(self, event: Mapping[str, Any]) -> None:
        """Add a line, with the time, to ``events.jsonl`` of the run's folder and page. One process at a time may.

        Args:
            event: JSON-ready; what happened to the run, such as a change of its ranks.
        """
        with self._lock:
            self._events.append(json.dumps({"at_ms": now_ms(), **event}).encode() + b"\n")
        self._add(Entry(path=EVENTS, name=EVENTS))

    def _store_events(self) -> None:
        with self._lock:
            events = list(self._events)
        if events:
            try:
                before = self._run.read(EVENTS)
            except NotFoundError:
                before = b""
            self._run.write(EVENTS, before + b"".join(events))
            with self._lock:
                del self._events[: len(events)]

    def _add(self, entry: Entry) -> None:
        with self._lock:
            self._lines.append(entry.to_line())
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, name="journal", daemon=True)
                self._thread.start()

    def _write_on(self) -> None:
        while True:
            stop = self._stop.wait(self._every_s)
            try:
                self.flush()
            except Exception as error:  # whatever the storage raises: the run finds out by itself whether it is there
                level = logging.WARNING if stop else logging.DEBUG
                lost = f"{counted(len(self._lines), 'entry', 'entries')} lost: " if stop else ""
                log.log(level, "%s/%s cannot be written: %s%s", self._run.uri, FOLDER, lost, error)
            if stop:
                return

    def flush(self) -> None:
        """Store what was logged before this call. Whoever says that a run has come so far calls it first: a run that
        resumes there does not log these points again.

        Raises:
            StorageError: it could not be stored; it is kept for the next time.
        """
        with self._writing:
            with self._lock:
                lines = list(self._lines)
            if not lines:
                return
            self._store_events()
            if not self._path or len(self._segment) >= _SEGMENT_BYTES:
                self._path, self._segment = self._next_path(), b""
            segment = self._segment + b"".join(lines)
            self._run.write(self._path, segment)
            self._segment = segment
            with self._lock:
                del self._lines[: len(lines)]

    def _next_path(self) -> str:
        number = max((number for number, _ in _segments(self._run)), default=-1) + 1
        return f"{FOLDER}/{number:06d}-{secrets.token_hex(4)}.jsonl"

    def close(self, wait_s: float = 30.0) -> None:
        """Store the rest and end the thread; after ``wait_s`` it is left to itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait_s)


def _segments(run: Storage) -> list[tuple[int, str]]:
    """Number and path of every segment, in order."""
    return sorted((int(found[1]), path) for path in run.list(f"{FOLDER}/") if (found := _SEGMENT.fullmatch(path)))


def read_unsent(run: Storage, sent: Mapping[str, int]) -> Iterator[tuple[str, int, Entry]]:
    """Entries in order, those left out of which the first ``sent`` bytes of each segment consist.

    Yields:
        The segment's path, the byte at which the entry ends, and the entry. A damaged line is left out, with a warning.
    """
    sizes = {path: size for path, size in run.list_sizes(f"{FOLDER}/") if _SEGMENT.fullmatch(path)}
    for path in sorted(sizes, key=lambda path: (int(path.split("/")[1].split("-")[0]), path)):
        end = sent.get(path, 0)
        if sizes[path] <= end:
            continue
        for line in run.read_range(path, end, sizes[path] - end).splitlines(keepends=True):
            end += len(line)
            try:
                yield path, end, Entry.from_line(line, f"{run.uri}/{path}, before byte {end}")
            except JsonError as error:
                log.warning("left out of the run's page: %s", error)


def read_sent(run: Storage) -> SentRecord:
    """``sent.json``; an empty one where there is none, or a damaged one: MLflow is asked then what it has."""
    return _read(run, SENT, SentRecord) or SentRecord()


def read_page(run: Storage) -> PageRecord | None:
    """``page.json``; None where there is none."""
    return _read(run, PAGE, PageRecord)


def last_status(run: Storage) -> tuple[Status | None, int]:
    """The last status in the journal (None: there is none), and when its latest entry was logged (0: there is none)."""
    sent = read_sent(run)
    status, last_ms = sent.status, sent.last_ms
    for _, _, entry in read_unsent(run, sent.segments):
        status, last_ms = entry.status or status, max(last_ms, entry.at_ms)
    return status, last_ms


def _read(run: Storage, path: str, kind: type[T]) -> T | None:
    try:
        return read_json(kind, run.read(path), f"{run.uri}/{path}", extra=True)
    except NotFoundError:
        return None
    except JsonError as error:
        log.warning("%s: it is left out", error)
        return None
