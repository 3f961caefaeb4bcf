"""What a split holds, in arrays: a million samples take some hundred megabytes, pickle, and survive a fork unread."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from pipeline.common.words import counted
from pipeline.config.data import HELD_OUT, DataConfig
from pipeline.data.sampling.hold_out import held_out, source_group
from pipeline.dataset.manifest import Manifest, ShardEntry, read_record
from pipeline.dataset.rules import stored_parameters
from pipeline.dataset.sample import extension, stored_modalities
from pipeline.dataset.shards import MemberRange, SampleRange
from pipeline.errors import ConfigError, ManifestError
from pipeline.storage import Storage

_offset_of = operator.attrgetter("offset")
_READ_THREADS = 8  # records are small objects: latency, not bandwidth, is what they cost


@dataclasses.dataclass(frozen=True)
class SplitIndex:
    """All samples of one split, in the manifest's order: what reading and sampling need of their records."""

    split: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    flow_bound_px: float
    tars: tuple[str, ...]
    tar_of: np.ndarray
    """(N,) int32 into ``tars``."""
    keys: np.ndarray
    """(N,) bytes."""
    labels: np.ndarray
    """(N,) int64."""
    sizes: np.ndarray
    """(N, 3) int32: num_frames, height, width."""
    members: np.ndarray
    """(N, M, 3) int64: offset, size, crc32 of each member that ``stored_modalities(modalities)`` names."""

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, i: int) -> str:
        """Key of sample ``i``."""
        return self.keys[i].decode()

    def sample_range(self, i: int) -> SampleRange:
        """The one ranged GET that brings the wanted members of sample ``i``."""
        table = zip(self._extensions, self.members[i].tolist(), strict=True)
        members = [MemberRange(name, *row) for name, row in table]
        members.sort(key=_offset_of)
        offset, last = members[0].offset, members[-1]
        tar = self.tars[self.tar_of[i]]
        return SampleRange(tar, self.key(i), offset, last.offset + last.size - offset, tuple(members))

    @functools.cached_property
    def _extensions(self) -> tuple[str, ...]:
        return tuple(extension(m) for m in stored_modalities(self.modalities))

    def range_bytes(self) -> np.ndarray:
        """Bytes of the ranged GET of each sample: (N,) int64."""
        offsets, ends = self.members[..., 0], self.members[..., 0] + self.members[..., 1]
        return ends.max(1) - offsets.min(1)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def part(self, wanted: np.ndarray, split: str) -> SplitIndex:
        """The samples for which ``wanted``, (N,) bool, is true, in their order, as a split of that name."""
        columns = {name: getattr(self, name)[wanted] for name in ("tar_of", "keys", "labels", "sizes", "members")}
        return dataclasses.replace(self, split=split, **columns)

    def class_counts(self) -> np.ndarray:
        """Samples of each class: (classes,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))


def _shard_columns(
    storage: Storage, manifest: Manifest, modalities: Sequence[str], entry: ShardEntry
) -> dict[str, np.ndarray]:
    # One shard at a time: parsed records are ten times as large as the arrays that are kept of them.
    samples = read_record(storage, manifest, entry).samples
    members = [[s.member(extension(m)) for m in stored_modalities(modalities)] for s in samples]
    return {
        "keys": np.array([s.key.encode() for s in samples]),
        "labels": np.array([s.label for s in samples], dtype=np.int64),
        "sizes": np.array([(s.num_frames, s.height, s.width) for s in samples], dtype=np.int32),
        "members": np.array([[(m.offset, m.size, m.crc32) for m in row] for row in members], dtype=np.int64),
    }


def check_modalities(manifest: Manifest, modalities: Sequence[str]) -> None:
    """Raise ManifestError where the data set stores less than ``modalities``."""
    missing = [m for m in stored_modalities(modalities) if m not in manifest.modalities]
    if missing or not modalities:
        raise ManifestError(
            f"data set {manifest.dataset!r} stores {', '.join(manifest.modalities)}; asked for"
            f" {', '.join(modalities) or 'none'}: choose a model that needs what is stored, or preprocess again with"
            " stored.modalities"
        )


def load_index(storage: Storage, manifest: Manifest, split: str, modalities: Sequence[str]) -> SplitIndex:
    """Read the records of a split into an index.

    Raises:
        ManifestError: the split is missing or empty, a modality is not stored, or a record cannot be trusted.
        StorageError: a record cannot be read.
    """
    check_modalities(manifest, modalities)
    entries = [s for s in manifest.shards if s.split == split and s.num_samples]
    if not entries:
        raise ManifestError(f"{storage.uri} has no samples in split {split!r}, only {manifest.split_sizes()}")
    with ThreadPoolExecutor(min(_READ_THREADS, len(entries))) as pool:
        parts = list(pool.map(partial(_shard_columns, storage, manifest, modalities), entries))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return SplitIndex(
        split=split,
        classes=manifest.classes,
        modalities=tuple(modalities),
        flow_bound_px=stored_parameters(manifest.parameters).flow_bound,
        tars=tuple(f"{e.path}.tar" for e in entries),
        tar_of=np.repeat(np.arange(len(entries), dtype=np.int32), [len(part["labels"]) for part in parts]),
        **columns,
    )


def load_run_index(
    storage: Storage, manifest: Manifest, split: str, modalities: Sequence[str], data: DataConfig
) -> SplitIndex:
    """The index of what a run with these ``data`` reads: of its training split what it trains on; of ``HELD_OUT`` what
    ``data.val_share`` or ``data.val_sources`` keeps back of that; of any other split all.

    Raises:
        ConfigError: nothing can be held out, or nothing is left; besides what ``load_index`` raises.
    """
    if data.validation != HELD_OUT or split not in (data.train_split, HELD_OUT):
        return load_index(storage, manifest, split, modalities)
    index = load_index(storage, manifest, data.train_split, modalities)
    names = [key.decode().rpartition("-")[0] for key in index.keys.tolist()]
    groups = [source_group(name, data.val_group) for name in names]
    kept_back = _named(groups, data) if data.val_sources else held_out(groups, index.labels, data.val_share)
    if not kept_back.any():
        fix = (
            f"no class of split {data.train_split!r} has a source to spare for that share: use a larger one, or name"
            " sources by data.val_group, or give 0"
        )
        raise ConfigError("data.val_share", data.val_share, fix)
    return index.part(kept_back, HELD_OUT) if split == HELD_OUT else index.part(~kept_back, split)


def _named(groups: Sequence[str], data: DataConfig) -> np.ndarray:
    """(N,) bool: True for the samples of ``data.val_sources``."""
    known = sorted(set(groups))
    for source in data.val_sources:
        if source not in known:
            few = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            fix = (
                f"split {data.train_split!r} has {counted(len(known), 'source')} ({few}): name one of these, or find"
                " others by data.val_group"
            )
            raise ConfigError("data.val_sources", source, fix)
    kept_back = np.array([group in data.val_sources for group in groups])
    if kept_back.all():
        raise ConfigError("data.val_sources", data.val_sources, "nothing is left to train on: hold out fewer sources")
    return kept_back
