"""An epoch's batches, one after another: order -> micro-batches -> ranged GETs -> decode and augment -> Batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.common.timer import StageTimer
from pipeline.config.data import DataConfig
from pipeline.data.assemble import Assembler
from pipeline.data.batch import Batch
from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.index import SplitIndex
from pipeline.data.sampling.order import MicroBatch, epoch_order, micro_batches, num_steps


@dataclasses.dataclass
class LoaderTimes(StageTimer):
    """Sums since the loader was made."""

    decode_s: float = 0.0
    """Decoding and augmenting, in the producing thread."""
    consumer_wait_s: float = 0.0
    """The trainer waited for a batch."""
    batches: int = 0
    samples: int = 0


class Producer:
    """Makes one rank's batches; runs in the loader's thread. It keeps no state between epochs.

    Args:
        shuffle: a new order in each epoch; otherwise the manifest's.
        times: where ``decode_s``, ``batches`` and ``samples`` are added.
    """

    def __init__(
        self,
        index: SplitIndex,
        assembler: Assembler,
        times: LoaderTimes,
        *,
        data: DataConfig,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._index, self._assembler, self._times, self._data = index, assembler, times, data
        self._shuffle, self._seed, self._rank, self._world_size = shuffle, seed, rank, world_size
        self.decoding: MicroBatch | None = None
        """The micro-batch that is being decoded; None between two."""

    def produce(self, epoch: int, start_step: int, fetcher: Fetcher) -> Iterator[Batch]:
        """Batches from ``start_step`` to the end of the epoch; raises what fetching, decoding and the budget raise."""
        order = epoch_order(len(self._index), self._seed, epoch, shuffle=self._shuffle)
        steps = range(start_step, num_steps(len(order), self._data.batch_size))
        # The fetcher walks through the same micro-batches, further ahead.
        arriving = fetcher.iterate(
            self._index.sample_range(i) for ahead in self._micro_batches(order, steps) for i in ahead.stored
        )
        begun: tuple[MicroBatch, Callable[[], Batch]] | None = None
        for micro_batch in self._micro_batches(order, steps):
            try:
                following = self._begin(micro_batch, arriving, epoch)
            except Exception:
                if begun is not None:  # what stops this batch does not touch the one before it
                    yield self._finish(*begun)
                raise
            # The next batch is begun before the last is waited for: no thread idles while a batch's last clip is made.
            if begun is not None:
                yield self._finish(*begun)
            begun = micro_batch, following
        if begun is not None:
            yield self._finish(*begun)

    def _micro_batches(self, order: np.ndarray, steps: range) -> Iterator[MicroBatch]:
        for step in steps:
            yield from micro_batches(
                order,
                step,
                batch_size=self._data.batch_size,
                micro_batch=self._data.micro_batch,
                rank=self._rank,
                world_size=self._world_size,
            )

    def _begin(
        self, micro_batch: MicroBatch, arriving: Iterator[dict[str, bytes] | Damaged], epoch: int
    ) -> Callable[[], Batch]:
        fetched = [next(arriving) for _ in micro_batch.stored]
        with self._decoding(micro_batch):
            begun = self._assembler.begin(micro_batch, fetched, epoch)
        self._times.batches += 1
        self._times.samples += len(fetched)
        return begun

    def _finish(self, micro_batch: MicroBatch, begun: Callable[[], Batch]) -> Batch:
        with self._decoding(micro_batch):
            return begun()

    @contextlib.contextmanager
    def _decoding(self, micro_batch: MicroBatch) -> Iterator[None]:
        self.decoding = micro_batch
        with self._times.measure("decode_s"):
            yield
        self.decoding = None
