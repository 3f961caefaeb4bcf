"""When and how a run's checkpoints are written: collective decisions, copies in memory, one thread of rank 0."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.checkpoints.writer import CheckpointWriter, Write
from pipeline.training.ask import Ask, Asker
from pipeline.training.checkpoint import StepKeys, save_samples
from pipeline.training.collective import gather_objects
from pipeline.training.host_copies import HostCopies

Snapshot = Callable[[HostCopies], Write]
"""Copies a part of a run's state; what it returns writes the copy into a folder."""


class Saver:
    """Writes checkpoints from rank 0, the collective parts on all ranks.

    Args:
        minutes: after which the clock of rank 0 asks for a checkpoint; 0: never.
        ask: of this rank, besides the clock.
        flush: stores the points that were logged; called before a checkpoint is stored, because a run that resumes from
            it does not log them again.
    """

    def __init__(
        self,
        store: CheckpointStore,
        rank: int,
        *,
        minutes: float,
        ask: Asker,
        flush: Callable[[], None] | None = None,
    ) -> None:
        self._flush = flush
        self._store, self._writer, self._copies = store, CheckpointWriter(store), HostCopies()
        self._rank, self._every_s, self._ask = rank, 60 * minutes, ask
        self._saved_s = time.monotonic()
        self._history: list[str] = []
        self._new_keys: list[StepKeys] = []

    def ask(self) -> Ask:
        """What this rank asks for now."""
        asked = self._ask()
        due = self._rank == 0 and 0 < self._every_s <= time.monotonic() - self._saved_s
        return max(asked, Ask.SAVE if due else Ask.NONE)

    def resume_keys(self, lines: list[str]) -> None:
        """The lines of keys that the checkpoint holds from which the run goes on."""
        self._history = lines

    def add_keys(self, keys: StepKeys) -> None:
        """Keep what this rank trained on in a step."""
        self._new_keys.append(keys)

    def save(self, position: Position, metrics: Mapping[str, float], parts: list[Snapshot], *, wait: bool) -> None:
        """Collective: copy the state, and store it in the background.

        Args:
            metrics: those measured at ``position``, for the list of checkpoints.
            parts: of the state.
            wait: until it is stored.

        Raises:
            StorageError, UserError: this checkpoint (with ``wait``) or the one before it could not be stored.
        """
        gathered = gather_objects(self._new_keys)
        self._new_keys = []
        if self._rank == 0:
            ordered = sorted((k for keys in gathered for k in keys), key=lambda k: (k.epoch, k.step, k.rank))
            self._history += [json.dumps(dataclasses.asdict(keys)) for keys in ordered]
            self._writer.wait()  # the copies of the checkpoint before are still being written
            writes = [part(self._copies) for part in parts]
            lines = list(self._history)

            def write(folder: Path) -> None:
                if self._flush:
                    self._flush()
                for part in writes:
                    part(folder)
                if lines:
                    save_samples(folder, 0, lines)

            self._writer.start(dataclasses.replace(position), metrics, write)
            if wait:
                self._writer.wait()
        self._saved_s = time.monotonic()

    def finish(self) -> str:
        """Wait until everything is stored; name of the newest checkpoint that this rank stored, or nothing."""
        self._writer.wait()
        if self._rank == 0 and not self._writer.stored:  # the command before may have ended between the two
            self._store.prune()
        return self._writer.stored

    def abandon(self) -> None:
        """After an error: let what is on the way arrive."""
        self._writer.settle()
