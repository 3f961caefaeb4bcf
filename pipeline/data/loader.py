"""Batches of one rank, prepared ahead by one thread.

    loader = make_loader(storage, manifest, "train", data=DataConfig(...), clip=ClipConfig(...), modalities=("rgb",
    "flow"),
                         train=True, seed=0, rank=0, world_size=1)
    for batch in loader.iter_epoch(epoch=3, start_step=120):
        ...

The state of a loader is (epoch, step): it keeps no other. order -> ranged GETs -> decode and augment -> Batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from pipeline.common.read_ahead import ReadAhead
from pipeline.config.data import HELD_OUT, ClipConfig, DataConfig
from pipeline.data.assemble import Assembler
from pipeline.data.batch import Batch
from pipeline.data.decoding.base import Decoder, Device
from pipeline.data.decoding.factory import make_decoder
from pipeline.data.delivery import Delivery
from pipeline.data.fetch.cache import DiskCache
from pipeline.data.fetch.damage import DamageLedger
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.fetch.read import FetchMetrics
from pipeline.data.index import SplitIndex, load_index, load_run_index
from pipeline.data.producer import LoaderTimes, Producer
from pipeline.data.sampling.order import num_steps, rank_batch_size
from pipeline.dataset.manifest import Manifest
from pipeline.storage import Storage

_MOST_NAMED = 4  # samples


class Loader:
    """One rank's batches of one split; made by ``make_loader``. Use from one thread; ``close`` when done."""

    def __init__(
        self,
        storage: Storage,
        index: SplitIndex,
        decoder: Decoder,
        *,
        data: DataConfig,
        clip: ClipConfig,
        train: bool,
        seed: int,
        rank: int,
        world_size: int,
        num_views: int,
        target: torch.device,
        num_crops: int = 1,
        channels_last: bool = False,
        cache: DiskCache | None = None,
    ) -> None:
        self.index = index
        self._storage, self._decoder, self._data, self._cache = storage, decoder, data, cache
        self._rank_batch = rank_batch_size(data.batch_size, world_size)
        self._fetch_metrics, self._times = FetchMetrics(), LoaderTimes()
        self._ledger, self._delivery = DamageLedger(data.damaged_budget), Delivery(target)
        self._assembler = Assembler(
            index,
            decoder,
            self._ledger,
            clip=clip,
            train=train,
            seed=seed,
            delivery=self._delivery,
            num_views=num_views,
            num_crops=num_crops,
            channels_last=channels_last,
        )
        self._producer = Producer(
            index, self._assembler, self._times, data=data, shuffle=train, seed=seed, rank=rank, world_size=world_size
        )
        self._running: ReadAhead[Batch] | None = None
        self._fetcher: Fetcher | None = None

    def num_steps(self, epoch: int = 0) -> int:
        """Steps of an epoch: the same for every rank and every epoch."""
        del epoch
        return num_steps(len(self.index), self._data.batch_size)

    def iter_epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches ``start_step``, ``start_step + 1``, ... of an epoch; nothing where ``start_step`` is its end.

        With ``data.micro_batch`` below the rank's part, each step comes in ``Batch.num_micro_batches`` batches.

        Closing the iterator (or leaving it to an error) stops its threads. Starting another one stops this one.

        Raises:
            StorageError: the storage failed or a sample missed ``data.fetch_deadline_s``; names shard and key.
            DamagedSampleError: more damaged samples than ``data.damaged_budget``; lists them.
            ReciprocalError: a sample whose bytes are right cannot be decoded; lists the batch's keys.
        """
        if not 0 <= start_step <= self.num_steps(epoch):
            raise ValueError(f"start_step {start_step} is outside 0..{self.num_steps(epoch)}")
        self._stop()
        fetcher = self._fetcher = Fetcher(
            self._storage,
            self._data.fetch_threads,
            self._data.fetch_deadline_s,
            self._fetch_metrics,
            buffer_bytes=self._data.fetch_buffer_mb * 1_000_000,
            burst=min(self._rank_batch, self._data.micro_batch or self._rank_batch),
            cache=self._cache,
        )
        batches = self._producer.produce(epoch, start_step, fetcher)
        ahead = self._running = ReadAhead(
            batches, self._data.prefetch, f"loader-{self.index.split}", wake=fetcher.close
        )
        try:
            while True:
                with self._times.measure("consumer_wait_s"):
                    batch = ahead.get()
                if batch is None:
                    return
                yield self._delivery.receive(batch)
        finally:
            ahead.close()

    def metrics(self) -> dict[str, float]:
        """Sums since the loader was made. ``fetch_wait_s`` and ``decode_s`` are the producer's, ``consumer_wait_s`` is
        the trainer's; ``decode_share`` is the part of ``decode_s`` that is decoding, the rest is augmentation.
        """
        return {
            **dataclasses.asdict(self._fetch_metrics),
            **dataclasses.asdict(self._times),
            "damaged": len(self._ledger),
            "decode_share": self._assembler.decode_share,
        }

    def waiting_for(self) -> str:
        """What holds up the next batch, from any thread: the sample that has not arrived and its shard, or the samples
        that are being decoded; "" where it is neither.
        """
        if self._fetcher and (sample := self._fetcher.waiting_for):
            return sample
        if decoding := self._producer.decoding:
            ranges = [self.index.sample_range(i) for i in decoding.stored]
            more = f" and {len(ranges) - _MOST_NAMED} more" if len(ranges) > _MOST_NAMED else ""
            named = ", ".join(f"{r.key} of {self._storage.uri}/{r.tar}" for r in ranges[:_MOST_NAMED])
            return f"the decoding of {named}{more}"
        return ""

    def close(self) -> None:
        """Stop all threads and free the decoder."""
        self._stop()
        self._decoder.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def make_loader(
    storage: Storage,
    manifest: Manifest,
    split: str,
    *,
    data: DataConfig,
    clip: ClipConfig,
    modalities: Sequence[str],
    train: bool,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_views: int = 1,
    num_crops: int = 1,
    channels_last: bool = False,
    device: Device = "cpu",
    device_id: int = 0,
    target: torch.device | None = None,
    index: SplitIndex | None = None,
) -> Loader:
    """Make one rank's loader.

    Args:
        split: of the manifest, or ``HELD_OUT``. A training reads of ``data.train_split`` what is not held out.
        train: shuffled, random clips; otherwise in the manifest's order, ``num_views`` fixed clips a sample with
            ``num_crops`` crops each.
        num_views: fixed clips of a sample; ``num_crops``: 1 (centre) or 3 (along the long side). Their rows are
            contiguous, crop by crop within a clip. ``data.batch_size`` counts samples: a batch has ``data.batch_size /
            world_size * num_views * num_crops`` rows.
        channels_last: inputs keep their shape (B, T, C, H, W) and lie in memory as (B, T, H, W, C): frames folded into
            the batch are channels_last to torch without a copy.
        device: see ``pipeline.data.decoding.factory.resolve_device``; on ``gpu``, GPU ``device_id``.
        target: where the batches are wanted; by default on the decoding device. They are there for what the consumer's
            stream does next, and on a GPU take ``data.prefetch`` batches of its memory.
        index: of this split and these modalities, where it is at hand; otherwise it is read.

    Raises:
        ConfigError: the batch does not divide by the ranks, DALI is not installed, or the GPU decodes no such pictures.
        ManifestError: the split is missing or empty, or a modality is not stored.
        StorageError: records cannot be read.
    """
    rank_batch = rank_batch_size(data.batch_size, world_size)
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}: must be at least 1")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops is {num_crops}: must be 1 or 3")
    if index is None:
        if train or split == HELD_OUT:
            index = load_run_index(storage, manifest, split, modalities, data)
        else:
            index = load_index(storage, manifest, split, modalities)
    elif (index.split, index.modalities) != (split, tuple(modalities)):
        raise ValueError(f"the index is of {index.split} {index.modalities}, asked for {split} {tuple(modalities)}")
    rows = min(rank_batch, data.micro_batch or rank_batch) * (1 if train else num_views * num_crops)
    if target is None:
        target = torch.device("cuda", device_id) if device == "gpu" else torch.device("cpu")
    decoder = make_decoder(
        data,
        clip,
        index.modalities,
        index.flow_bound_px,
        max_rows=rows,
        device=device,
        device_id=device_id,
        least_px=int(index.sizes[:, 1:].min()),
        channels_last=channels_last,
        pinned=target.type == "cuda",
    )
    return Loader(
        storage,
        index,
        decoder,
        data=data,
        clip=clip,
        train=train,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_views=num_views,
        num_crops=num_crops,
        channels_last=channels_last,
        target=target,
        cache=DiskCache(data.cache_dir, int(data.cache_gb * 1e9), manifest.digest) if data.cache_dir else None,
    )
