"""From a run's journal to its page on the tracking server: in order, each point once, whatever the server does.

A point's place is its name and step. What the page has is asked of MLflow itself (the highest step of each curve comes
with the run) whenever it is not certain: at the start, and after a request that failed, whose answer may have been
lost. ``sent.json`` only saves reading the whole journal again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Sequence
from pathlib import PurePosixPath

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from pipeline.errors import NotFoundError, StorageError
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder
from pipeline.tracking.data_sets import log_data
from pipeline.tracking.entries import Entry, number, plain_numbers
from pipeline.tracking.journal import SENT, read_page, read_sent, read_unsent
from pipeline.tracking.once import asked_once
from pipeline.tracking.pages import find_or_make
from pipeline.tracking.runs import client, is_refusal

log = logging.getLogger(__name__)
_BATCH = 200  # entries after which the place in the journal moves on
_MAX_METRICS, _MAX_TAGS, _MAX_TAG = 900, 100, 5000  # MLflow: 1000 of both in a request, 100 tags, 8000 characters
_SAVE_EVERY_S = 10.0
_REFUSED_AT = 4  # times in a row, after which the request is taken apart
_MOST_REFUSED = 20  # parts of a request; with more it is the server that is ill

Item = Metric | RunTag


class Sender:
    """Sends what a journal holds. One thread uses it."""

    def __init__(self, run: Storage) -> None:
        self._storage = run
        self._sent = read_sent(run)
        self._run_id = ""  # MLflow's, once the page is known to be there
        self._highest: dict[str, int] = {}  # step of each curve on the page
        self._certain = False  # that ``_highest`` is right and no request may have been done unheard
        self._refusals = 0
        self._saved_s = self._retried_s = -float("inf")
        self.experiment_id = ""

    @property
    def tracking_run_id(self) -> str:
        """MLflow's id of the page; empty as long as there is none."""
        return self._run_id or self._sent.tracking_run_id

    def num_left(self) -> int:
        """Entries that the page does not have. Raises StorageError."""
        return len(self._sent.refused) + sum(1 for _ in read_unsent(self._storage, self._sent.segments))

    def send(self) -> int:
        """Send all that the journal holds now; returns how many entries that was.

        Raises:
            Exception: whatever MLflow raises, or the storage. The next call goes on from there.
        """
        count = 0
        with asked_once():
            try:
                self._find_page()
                self._send_refused()
                unsent = read_unsent(self._storage, self._sent.segments)
                while batch := list(itertools.islice(unsent, _BATCH)):
                    self._send([entry for _, _, entry in batch])
                    ends = {path: end for path, end, _ in batch}
                    self._sent = dataclasses.replace(
                        self._sent,
                        segments={**self._sent.segments, **ends},
                        last_ms=max(self._sent.last_ms, *(entry.at_ms for _, _, entry in batch)),
                    )
                    count += len(batch)
                    self._certain, self._refusals = True, 0
                    self._save(_SAVE_EVERY_S)
            except BaseException:
                self._run_id, self._certain = "", False
                raise
        return count

    def save(self) -> None:
        """Store how far it has come."""
        self._save(0.0)

    def _save(self, every_s: float) -> None:
        if time.monotonic() - self._saved_s >= every_s:
            with contextlib.suppress(StorageError, OSError):  # MLflow is asked again
                self._storage.write(SENT, json.dumps(dataclasses.asdict(self._sent)).encode())
                self._saved_s = time.monotonic()

    def _find_page(self) -> None:
        if self._run_id:
            return
        record = read_page(self._storage)
        if record is None:
            raise NotFoundError(f"{self._storage.uri} has no journal to send")
        run = find_or_make(record, self._sent.tracking_run_id)
        self._run_id, self.experiment_id = run.info.run_id, run.info.experiment_id
        if self._run_id != self._sent.tracking_run_id:  # another server, or a page that was removed
            self._sent = dataclasses.replace(self._sent, tracking_run_id=self._run_id, segments={})
        self._highest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        self._certain = False

    def _send(self, entries: Sequence[Entry]) -> None:
        """Points and tags first, then artifacts, then the status: whoever sees it sees all the rest."""
        highest, items = dict(self._highest), list[Item]()
        for entry in entries:
            for name, value in entry.curve.items():
                if entry.step > highest.get(name, -1):
                    highest[name] = entry.step
                    items.append(Metric(name, number(value), entry.at_ms, entry.step))
        items += self._scores(entries)
        for start in range(0, len(items), _MAX_METRICS):
            self._log(items[start : start + _MAX_METRICS])
        self._highest = highest
        tags = [RunTag(key, value[:_MAX_TAG]) for key, value in _last_tags(entries).items()]
        for start in range(0, len(tags), _MAX_TAGS):
            self._log(tags[start : start + _MAX_TAGS])
        log_data(self._run_id, {entry.data: None for entry in entries if entry.data})
        for entry in {entry.name: entry for entry in entries if entry.name}.values():
            self._send_artifact(entry)
        if changes := [entry for entry in entries if entry.status]:
            for entry in changes[-2:] if changes[-1].if_running else changes[-1:]:
                self._set_status(entry)

    def _scores(self, entries: Sequence[Entry]) -> list[Metric]:
        """Scores that the page does not have: one is known by its step and time."""
        scores = [
            Metric(name, number(value), entry.at_ms, entry.step)
            for entry in entries
            for name, value in entry.scores.items()
        ]
        if self._certain or not scores:
            return scores
        known = {
            (name, metric.step, metric.timestamp)
            for name in {score.key for score in scores}
            for metric in client().get_metric_history(self._run_id, name)
        }
        return [score for score in scores if (score.key, score.step, score.timestamp) not in known]

    def _log(self, items: Sequence[Item]) -> None:
        try:
            self._log_batch(items)
        except MlflowException as error:
            self._refusals += is_refusal(error)
            if self._refusals < _REFUSED_AT or not is_refusal(error):
                raise
            self._set_aside(self._find_refused(items, []))

    def _log_batch(self, items: Sequence[Item]) -> None:
        metrics = [item for item in items if isinstance(item, Metric)]
        tags = [item for item in items if isinstance(item, RunTag)]
        client().log_batch(self._run_id, metrics=metrics, tags=tags)

    def _find_refused(self, items: Sequence[Item], found: list[tuple[Item, str]]) -> list[tuple[Item, str]]:
        """Send all that the server takes; returns the rest, each with the server's reason."""
        try:
            self._log_batch(items)
        except MlflowException as error:
            if not is_refusal(error) or len(found) >= _MOST_REFUSED:
                raise
            if len(items) == 1:
                return [*found, (items[0], str(error).partition("\n")[0])]
            middle = len(items) // 2
            return self._find_refused(items[middle:], self._find_refused(items[:middle], found))
        return found

    def _set_aside(self, refused: Sequence[tuple[Item, str]]) -> None:
        lines = []
        for item, reason in refused:
            if isinstance(item, Metric):
                what = f"{item.key} of step {item.step}"
                entry = Entry(at_ms=item.timestamp, step=item.step, scores=plain_numbers({item.key: item.value}))
            else:
                what, entry = f"tag {item.key}", Entry(at_ms=0, tags={item.key: item.value})
            line = entry.to_line().decode()
            if line in self._sent.refused:  # the same batch as before, which failed further on
                continue
            lines.append(line)
            log.warning("MLflow refuses %s (%s); it stays in the run's journal and is tried again", what, reason)
        self._sent = dataclasses.replace(self._sent, refused=(*self._sent.refused, *lines))

    def _send_refused(self) -> None:
        """Try once more, now and then, what was refused."""
        if not self._sent.refused or time.monotonic() - self._retried_s < 3 * _SAVE_EVERY_S:
            return
        self._retried_s = time.monotonic()
        before, self._certain = self._sent.refused, False
        left = []
        for line in before:
            entry = Entry.from_line(line.encode(), SENT)
            items = [*self._scores([entry]), *(RunTag(key, value) for key, value in entry.tags.items())]
            try:
                if items:
                    self._log_batch(items)
            except MlflowException as error:
                if not is_refusal(error):
                    raise
                left.append(line)
        self._sent = dataclasses.replace(self._sent, refused=tuple(left))

    def _send_artifact(self, entry: Entry) -> None:
        name = PurePosixPath(entry.name)
        with scratch_folder() as folder:
            file = folder / name.name
            try:
                file.write_bytes(self._storage.read(entry.path) if entry.path else entry.text.encode())
            except NotFoundError as error:
                log.warning("left out of the run's page: %s", error)
                return
            client().log_artifact(self._run_id, str(file), str(name.parent) if name.parent.name else None)

    def _set_status(self, entry: Entry) -> None:
        assert entry.status is not None
        status = client().get_run(self._run_id).info.status if entry.if_running else "RUNNING"
        if status != "RUNNING":
            self._sent = dataclasses.replace(self._sent, status=status)
            return
        if entry.status == "RUNNING":
            client().update_run(self._run_id, status="RUNNING")
        else:
            client().set_terminated(self._run_id, entry.status, entry.at_ms)
        self._sent = dataclasses.replace(self._sent, status=entry.status)


def _last_tags(entries: Sequence[Entry]) -> dict[str, str]:
    return {key: value for entry in entries for key, value in entry.tags.items()}
