"""Refuse what cannot work, on the driver, before any worker or GPU is taken; and say what the run will ask of the
storage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.common.words import counted, sized
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CHANNELS
from pipeline.data.fetch.cache import stored_total
from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.read import FetchMetrics, read_sample
from pipeline.data.index import SplitIndex, check_modalities, load_run_index
from pipeline.data.sampling.clips import span
from pipeline.data.sampling.order import num_steps, rank_batch_size
from pipeline.data.sampling.short import short_note
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.rules import stored_parameters
from pipeline.errors import ConfigError, ManifestError, NotFoundError
from pipeline.storage import Storage

log = logging.getLogger(__name__)

_MAX_UPSCALING = 2.0
_READ_S = 60.0  # for a first sample: a server that takes longer is not there
_NO_VALIDATION = (
    ', or "" for no validation; data.val_share 0.1 besides holds out a part of the training split (a validation on test'
    " would choose by what is to be measured)"
)
_UNFINISHED = 2  # batches besides those prefetched: one being made, one with the trainer


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """What an epoch of a run asks of storage, disk and memory. Requests and bytes are exact where nothing fails or
    is cached.
    """

    samples: dict[str, int]
    """By split: the training split, and the validation split where there is one, or what is held out for it."""
    requests: dict[str, int]
    """Ranged GETs of one epoch over the split, all ranks together."""
    bytes: dict[str, int]
    """Bytes read by those GETs."""
    steps: int
    """Global batches of a training epoch."""
    rank_batch: int
    """Samples of a training batch on one rank."""
    batch_bytes: int
    """Memory of all batches that a rank holds at once: prefetched ones, one being made, one with the trainer."""
    index_bytes: int
    """Memory of the splits' indices on each rank."""
    cache_share: float
    """Share of all these bytes that data.cache_gb has room for; 0 without a cache."""
    warnings: tuple[str, ...] = ()
    """What works but is hardly meant, one line each: videos shorter than a clip."""

    def summary(self) -> tuple[str, str]:
        """Two lines for the log."""
        splits = ", ".join(
            f"{split} {counted(count, 'sample')} ({counted(self.requests[split], 'GET')}, {sized(self.bytes[split])})"
            for split, count in self.samples.items()
        )
        cache = f"{self.cache_share:.0%} of these bytes fit into each node's cache" if self.cache_share else "no cache"
        return (
            f"an epoch: {splits}; {counted(self.steps, 'step')}",
            (
                f"a rank: {counted(self.rank_batch, 'sample')} a step, {sized(self.batch_bytes)} of batches,"
                f" {sized(self.index_bytes)} of index; {cache}"
            ),
        )


def check_data(
    storage: Storage,
    manifest: Manifest,
    *,
    data: DataConfig,
    clip: ClipConfig,
    modalities: Sequence[str],
    world_size: int,
) -> DataPlan:
    """Check a data set against what a run wants of it. Reads the records, and one sample, of each split the run reads.

    Raises:
        ConfigError: the batch does not divide by the ranks, the manifest is not the one the config names, a split's
            name is unknown, the crop asks for more than twice the stored pixels, clips have several frames and the
            samples of a split one, or the cache's disk is too small.
        ManifestError: a modality is not stored, the training split is empty, a class has no training sample, or samples
            read as a check are not the ones the records describe.
        StorageSetupError: credentials or bucket do not allow reading.
        StorageError: a sample cannot be read; names shard and key.
    """
    rank_batch = rank_batch_size(data.batch_size, world_size)
    if data.manifest_digest and data.manifest_digest != manifest.digest:
        fix = (
            f"the manifest at {storage.uri} is {manifest.digest}: give that digest, or the folder of the version meant"
        )
        raise ConfigError("data.manifest_digest", data.manifest_digest, fix)
    check_modalities(manifest, modalities)
    _check_crop(manifest, clip)
    sizes = manifest.split_sizes()
    for field, split in (("data.train_split", data.train_split), ("data.val_split", data.val_split)):
        if split and split not in sizes:
            none = "" if field == "data.train_split" else _NO_VALIDATION
            raise ConfigError(field, split, f"use one of the manifest's splits: {', '.join(sizes)}{none}")
    names = [split for split in (data.train_split, data.validation) if split]
    wanted = [split for split in names if sizes.get(split, 1) or split == data.train_split]
    with _missing_is_refused(storage):
        indices = {split: load_run_index(storage, manifest, split, modalities, data) for split in wanted}
    for split, found in indices.items():
        _check_frames(found, split, clip, modalities)
    counts = {split: len(indices[split]) if split in indices else 0 for split in names}
    index = indices[data.train_split]
    empty = [name for name, count in zip(manifest.classes, index.class_counts(), strict=True) if count == 0]
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        raise ManifestError(
            f"{len(empty)} of {len(manifest.classes)} classes have no sample in split {data.train_split!r}: {shown}"
        )
    num_bytes = {split: int(indices[split].range_bytes().sum()) if split in indices else 0 for split in names}
    cache_share = _check_cache(data, sum(num_bytes.values())) if data.cache_dir else 0.0
    for found in indices.values():
        with _missing_is_refused(storage):
            _read_one(storage, found, min(_READ_S, data.fetch_deadline_s))
    channels = sum(CHANNELS[m] * (1 if m == "rgb" else clip.stack) for m in modalities)
    return DataPlan(
        samples=counts,
        requests=dict(counts),
        bytes=num_bytes,
        steps=num_steps(len(index), data.batch_size),
        rank_batch=rank_batch,
        batch_bytes=(data.prefetch + _UNFINISHED)
        * min(rank_batch, data.micro_batch or rank_batch)
        * clip.num_frames
        * channels
        * clip.crop**2
        * 4,
        index_bytes=sum(found.nbytes for found in indices.values()),
        cache_share=cache_share,
        warnings=tuple(
            note
            for split, found in indices.items()
            if (note := short_note(found.sizes[:, 0], clip, modalities, split, manifest.parameters))
        ),
    )


def _check_crop(manifest: Manifest, clip: ClipConfig) -> None:
    short_side = stored_parameters(manifest.parameters).short_side if "short_side" in manifest.parameters else 0
    if short_side and clip.test_resize > _MAX_UPSCALING * short_side:
        # Where the resize is given, a smaller crop alone changes nothing.
        field, given = ("clip.resize", clip.resize) if clip.resize else ("clip.crop", clip.crop)
        largest = int(_MAX_UPSCALING * short_side * given / clip.test_resize)
        fix = (
            f"views of short side {clip.test_resize} px would enlarge the stored {short_side} px more than"
            f" {_MAX_UPSCALING:g} times: use at most {largest}, or preprocess again with a larger stored.short_side"
            + (f" (and a clip.crop of at most {largest * clip.crop // given})" if clip.resize else "")
        )
        raise ConfigError(field, given, fix)


def _check_frames(index: SplitIndex, split: str, clip: ClipConfig, modalities: Sequence[str]) -> None:
    """Refuse a split of pictures alone for clips of more frames: every clip would show one picture again and again."""
    if len(index) and span(clip, modalities) > 1 >= int(index.sizes[:, 0].max()):
        fix = (
            f"all {len(index)} samples of split {split!r} are pictures, of one frame: give a data set of videos, or"
            " train on pictures with --model.num-steps 1 --clip.num-frames 1 (recipe mrst_imagenet_twin)"
        )
        raise ConfigError("clip.num_frames", clip.num_frames, fix)


def _check_cache(data: DataConfig, num_bytes: int) -> float:
    """The share of ``num_bytes`` that the cache may keep. Its disk is looked at where this machine has the folder:
    nodes may differ.
    """
    limit = data.cache_gb * 1e9
    folder = Path(data.cache_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError("data.cache_dir", data.cache_dir, "is not a folder: give one, or nothing for no cache")
    if folder.is_dir():
        room = shutil.disk_usage(folder).free + stored_total(folder)
        if room < min(limit, num_bytes):
            fix = (
                f"{data.cache_dir} has room for {room / 1e9:.1f} GB of the {min(limit, num_bytes) / 1e9:.1f} GB it"
                f" would get: give at most {room / 1e9:.1f}, or another data.cache_dir"
            )
            raise ConfigError("data.cache_gb", data.cache_gb, fix)
    return min(1.0, limit / max(1, num_bytes))


@contextlib.contextmanager
def _missing_is_refused(storage: Storage) -> Iterator[None]:
    """An object that the manifest lists and that is gone is wrong input, found before any worker is taken."""
    try:
        yield
    except NotFoundError as error:
        raise ManifestError(
            f"{error}: {storage.uri} is not complete; run jobs.verify {storage.uri}, and restore or preprocess it again"
        ) from error


def _read_one(storage: Storage, index: SplitIndex, deadline_s: float) -> None:
    """Read a sample as a worker does; where it is damaged, which a run may survive, one of another place."""
    details, timed = [], storage.within(deadline_s)
    for i in dict.fromkeys((len(index) // 2, 0, len(index) - 1)):
        found = read_sample(timed, index.sample_range(i), FetchMetrics(), threading.Lock())
        if not isinstance(found, Damaged):
            return
        details.append(f"{found.key} in {found.tar} ({found.detail})")
        log.warning("trial read: a sample is damaged: %s", details[-1])
    raise ManifestError(
        f"{storage.uri}: samples are not what their records say: {'; '.join(details)}; restore these shards or"
        " preprocess them again"
    )
