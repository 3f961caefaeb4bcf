"""One pass over the records of a data set: totals, distributions, rejects, and which samples to show.

Records are read a few at a time and only numbers are kept, so a million samples take some tens of megabytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.dataset.manifest import Manifest, read_record
from pipeline.dataset.shards import SampleRecord, ShardRecord
from pipeline.storage import Storage

MAX_SHOWN_BYTES = 64 << 20  # larger samples are not fetched for pictures
_AT_ONCE = 16  # records in flight: a store answers in tens of milliseconds
_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Pick:
    """A sample to show, and the tar it is in."""

    tar: str
    sample: SampleRecord


@dataclasses.dataclass
class SplitTotals:
    """Sums over one split."""

    samples: int = 0
    rejects: int = 0
    frames: int = 0
    seconds: float = 0.0
    num_bytes: int = 0

    @property
    def inputs(self) -> int:
        """Planned sources."""
        return self.samples + self.rejects


@dataclasses.dataclass
class ClassTotals:
    """Sums over one class."""

    name: str
    samples: Counter[str] = dataclasses.field(default_factory=Counter)  # by split
    rejects: Counter[str] = dataclasses.field(default_factory=Counter)  # by reason
    seconds: float = 0.0

    @property
    def num_samples(self) -> int:
        return self.samples.total()

    @property
    def num_rejects(self) -> int:
        return self.rejects.total()


def _floats() -> array:
    return array("f")


@dataclasses.dataclass
class Survey:
    """What the records say. The arrays have one number per sample, or fewer if records are older than the field."""

    classes: list[ClassTotals]
    per_class: int
    splits: dict[str, SplitTotals] = dataclasses.field(default_factory=dict)
    frames: array = dataclasses.field(default_factory=_floats)
    seconds: array = dataclasses.field(default_factory=_floats)
    flow_mean_px: array = dataclasses.field(default_factory=_floats)
    flow_saturation: array = dataclasses.field(default_factory=_floats)
    flow_error_px: array = dataclasses.field(default_factory=_floats)
    shard_bytes: array = dataclasses.field(default_factory=lambda: array("d"))
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)  # stored, (width, height)
    source_sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    rates: Counter[float] = dataclasses.field(default_factory=Counter)
    enlarged: int = 0  # samples whose source is smaller than what is stored
    maybe_cut: int = 0  # samples whose source does not say its length
    not_square: int = 0  # samples whose source has pixels that are not square
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # sources by reason
    flows: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    """Shards by (engine, version, mode)."""
    _picks: dict[int, list[tuple[int, str, SampleRecord]]] = dataclasses.field(default_factory=dict)

    def picks(self, label: int) -> list[Pick]:
        """The samples of a class to show: those whose keys have the smallest sha256, so always the same."""
        return [
            Pick(tar, sample)
            for _, tar, sample in sorted(self._picks.get(label, []), key=lambda item: (-item[0], item[1]))
        ]

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        split = self.splits.setdefault(record.split, SplitTotals())
        split.num_bytes += record.size
        if record.samples:
            self.shard_bytes.append(record.size)
        if record.flow:
            self.flows[
                (
                    str(record.flow.get("engine", "?")),
                    str(record.flow.get("version", "?")),
                    str(record.flow.get("mode", "?")),
                )
            ] += 1
        for sample in record.samples:
            self._add_sample(sample, split, record)
        for reject in record.rejects:
            split.rejects += 1
            self.reasons[reject.reason] += 1
            self.classes[reject.label].rejects[reject.reason] += 1
            examples = self.examples.setdefault(reject.reason, [])
            if len(examples) < _EXAMPLES:
                examples.append(f"{reject.source}: {reject.detail}")

    def _add_sample(self, sample: SampleRecord, split: SplitTotals, record: ShardRecord) -> None:
        seconds = sample.num_frames / sample.fps
        split.samples += 1
        split.frames += sample.num_frames
        split.seconds += seconds
        totals = self.classes[sample.label]
        totals.samples[record.split] += 1
        totals.seconds += seconds
        self.frames.append(sample.num_frames)
        self.seconds.append(seconds)
        self.sizes[(sample.width, sample.height)] += 1
        self.rates[round(sample.fps, 3)] += 1
        if sample.source_width and sample.source_height:
            self.source_sizes[(sample.source_width, sample.source_height)] += 1
            self.enlarged += min(sample.source_width, sample.source_height) < min(sample.width, sample.height)
        self.maybe_cut += sample.length_announced is False
        self.not_square += sample.sar not in (None, "1:1")
        for name in ("flow_mean_px", "flow_saturation", "flow_error_px"):
            value = getattr(sample, name)
            if value is not None:
                getattr(self, name).append(value)
        if sample.size <= MAX_SHOWN_BYTES and self.per_class:
            # A heap whose smallest entry is the largest hash: the first to go.
            heap = self._picks.setdefault(sample.label, [])
            item = (-int.from_bytes(hashlib.sha256(sample.key.encode()).digest()[:8]), f"{record.path}.tar", sample)
            if len(heap) < self.per_class:
                heapq.heappush(heap, item)
            elif item[0] > heap[0][0]:
                heapq.heapreplace(heap, item)


def survey(storage: Storage, manifest: Manifest, per_class: int) -> Survey:
    """Read all records of a data set.

    Args:
        per_class: samples to show of every class.

    Raises:
        ManifestError: a record is not the one the manifest lists.
        StorageError: reading failed.
    """
    found = Survey(classes=[ClassTotals(name) for name in manifest.classes], per_class=per_class)
    for record in _records(storage, manifest):
        found.add(record)
    return found


def _records(storage: Storage, manifest: Manifest) -> Iterator[ShardRecord]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(manifest.shards), _AT_ONCE):  # pool.map over all of them would read ahead without end
            yield from pool.map(partial(read_record, storage, manifest), manifest.shards[start : start + _AT_ONCE])
