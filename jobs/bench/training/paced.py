"""A rank of a real run that lets the bare loop take its turn before every epoch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from typing import Any

from jobs.train.worker import WorkerTask, train_worker
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader, make_loader
from pipeline.training.loop import Outcome


@dataclasses.dataclass(frozen=True)
class Turns:
    """How a rank reaches the bench, and how long a turn is."""

    address: str
    """Of a socket below the bench's temporary folder."""
    steps: int


class PacedLoader:
    """A loader whose epochs have ``turns.steps`` steps; between two of them the bench is told how long the last took,
    and its answer, after the bare loop's turn, is waited for.
    """

    def __init__(self, loader: Loader, turns: Turns) -> None:
        self._loader, self._turns = loader, turns
        self._bench = Client(turns.address, "AF_UNIX")
        self._start_s = 0.0
        self._waited_s = 0.0

    def __enter__(self) -> PacedLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._bench.close()
        self._loader.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def num_steps(self, epoch: int = 0) -> int:
        del epoch
        return self._turns.steps

    def iter_epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, once it is this rank's turn."""
        taken_s = time.perf_counter() - self._start_s
        self._bench.send((taken_s, self._waited_s))
        self._bench.recv()
        self._start_s, self._waited_s = time.perf_counter(), 0.0
        batches = self._loader.iter_epoch(epoch, start_step)
        try:
            for _ in range(start_step, self._turns.steps):
                asked_s = time.perf_counter()
                batch = next(batches)
                self._waited_s += time.perf_counter() - asked_s
                yield batch
        finally:
            batches.close()  # type: ignore[attr-defined]


def paced_worker(turns: Turns) -> Callable[[WorkerTask], Outcome]:
    """``train_worker`` with paced batches."""

    def work(task: WorkerTask) -> Outcome:
        def paced(*args: Any, **options: Any) -> PacedLoader:
            return PacedLoader(make_loader(*args, **options), turns)

        return train_worker(task, paced)

    return work
