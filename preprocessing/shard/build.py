"""One shard, from source videos to a committed record. No Ray here: a task of ``jobs.preprocess`` calls this once.

    samples (``preprocessing.shard.stages``) -> local tar -> read it back -> upload tar and index, then the record

The same sources and parameters give the same bytes, so an attempt that died half-way is simply repeated. A shard
without any sample has a record, because its rejects must be counted, and no tar.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2

from pipeline.config.base import as_dict
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.shards import Reject, SampleRecord, ShardRecord, TarBuilder, dali_index, file_sha256, scan_tar
from pipeline.errors import ManifestError, NotFoundError, ReciprocalError, RejectedSource
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder
from preprocessing.annotations import Source
from preprocessing.shard.plan import ShardPlan
from preprocessing.shard.stages import engine_for, make_samples
from preprocessing.shard.work import StageTimes, disk_error, named
from preprocessing.sources import SourceStore

log = logging.getLogger(__name__)
_Written = tuple[SampleRecord, dict[str, tuple[int, int]]]  # with (bytes, crc32) of every member
_NOTHING = hashlib.sha256().hexdigest()  # of a tar that does not exist


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """Everything besides its sources that decides a shard's bytes. Made once, on the driver."""

    classes: tuple[str, ...]
    stored: StoredConfig
    flow: dict | None
    """``FlowEngine.describe()``; None where no flow is stored."""
    parameter_hash: str

    @classmethod
    def of(cls, classes: Sequence[str], stored: StoredConfig, flow: dict | None = None) -> ShardSpec:
        """The spec of a configuration.

        Args:
            flow: ``FlowEngine.describe()`` of the machine that will compute flow; None: of the engine installed here.
        """
        if flow is None and "flow" in stored.modalities:
            flow = engine_for(stored).describe()
        return cls(classes=tuple(classes), stored=stored, flow=flow, parameter_hash=parameter_hash(stored, flow))


def parameter_hash(stored: StoredConfig, flow: Mapping | None) -> str:
    """sha256 (12 hex digits) of all parameters that change stored bytes, including version and parameters of the
    flow engine.
    """
    fields = as_dict(stored)
    if not stored.square_pixels:  # data sets from before this option keep their hash
        del fields["square_pixels"]
    return hashlib.sha256(json.dumps([fields, flow], sort_keys=True).encode()).hexdigest()[:12]


def build_shard(
    plan: ShardPlan,
    *,
    store: SourceStore,
    spec: ShardSpec,
    storage: Storage,
    crashed: Mapping[str, str] | None = None,
    times: StageTimes | None = None,
    progress: Callable[[Source], None] | None = None,
) -> ShardRecord:
    """Build, check and store one shard; every source of the plan ends as a sample or as a reject.

    Args:
        crashed: detail by source name, for sources known to crash the decoder's process: rejected without reading.
        times: the cost of each stage is added to it while they run.
        progress: called after every source.

    Raises:
        StorageError: the storage failed after its retries, or the local disk is full.
        ReciprocalError: a source failed after decoding, or the tar did not read back as written.
    """
    cv2.setNumThreads(1)  # a task is one core
    if spec.flow is not None and plan.present and (here := engine_for(spec.stored).describe()) != spec.flow:
        raise ReciprocalError(
            f"{plan.path}: the flow engine of this machine is {here}, the plan's is {spec.flow}: install the same"
            " versions on all nodes"
        )
    times = times if times is not None else StageTimes()
    crashed = crashed or {}
    samples: list[_Written] = []
    refused: dict[str, RejectedSource] = {p.source.name: store.refusal(p.source.path) for p in plan.missing}
    todo = []
    for planned in plan.present:
        if (name := planned.source.name) in crashed:
            refused[name] = RejectedSource("crashed", crashed[name])
        else:
            todo.append(planned)
    with scratch_folder() as folder:
        tar = folder / f"{plan.name}.tar"
        try:
            with (
                TarBuilder(tar) as builder,
                contextlib.closing(
                    make_samples(todo, store, spec.classes, spec.stored, folder, times=times)
                ) as results,
            ):
                for source, made in results:
                    if isinstance(made, RejectedSource):
                        refused[source.name] = made
                    else:
                        with named(source):
                            builder.add(made.record.key, made.members)
                            written = {name: _crc32(content) for name, content in made.members.items()}
                        samples.append((made.record, written))
                    if progress:
                        progress(source)
        except OSError as error:
            raise disk_error(plan.path, error) from error
        except ReciprocalError as error:
            raise type(error)(f"{plan.path}: {error}") from error
        record = ShardRecord(
            split=plan.split,
            name=plan.name,
            parameter_hash=spec.parameter_hash,
            sources_sha256=plan.sources_sha256,
            size=tar.stat().st_size if samples else 0,
            sha256=file_sha256(tar) if samples else _NOTHING,
            samples=_placed(samples, tar) if samples else (),
            rejects=tuple(
                Reject(source=s.name, label=s.label, reason=refused[s.name].reason, detail=refused[s.name].detail)
                for s in plan.sources
                if s.name in refused
            ),
            flow=spec.flow,
        )
        if len(record.samples) + len(record.rejects) != len(plan.sources):
            raise ReciprocalError(
                f"{plan.path}: {len(plan.sources)} sources went in, {len(record.samples)} samples and"
                f" {len(record.rejects)} rejects came out"
            )
        with times.measure("store_s"):
            _commit(record, tar, storage)
    return record


def _commit(record: ShardRecord, tar: Path, storage: Storage) -> None:
    """Store tar and index, and the record last: without it the shard does not exist."""
    if record.samples:
        storage.write_file(f"{record.path}.tar", tar)
        if (size := storage.size(f"{record.path}.tar")) != record.size:
            raise ReciprocalError(f"{storage.uri}/{record.path}.tar: stored with {size} bytes instead of {record.size}")
        storage.write(f"{record.path}.idx", dali_index(record))
    else:  # an earlier attempt may have had samples
        storage.delete(f"{record.path}.tar")
        storage.delete(f"{record.path}.idx")
    storage.write(f"{record.path}.json", record.to_json())


def committed_record(plan: ShardPlan, spec: ShardSpec, storage: Storage) -> ShardRecord | None:
    """The record of a shard that an earlier run finished with the same sources and parameters, else None.

    The record counts only while its tar and index exist and the tar has the recorded size.
    """
    try:
        record = ShardRecord.from_json(storage.read(f"{plan.path}.json"), f"{plan.path}.json")
        asked = (plan.split, plan.name, spec.parameter_hash, plan.sources_sha256)
        whole = (record.split, record.name, record.parameter_hash, record.sources_sha256) == asked
        if whole and record.samples:
            whole = storage.size(f"{plan.path}.tar") == record.size and storage.exists(f"{plan.path}.idx")
    except NotFoundError:
        return None
    except ManifestError as error:
        log.warning("%s/%s.json is damaged and will be built again: %s", storage.uri, plan.path, error)
        return None
    return record if whole else None


def _crc32(content: bytes | Path) -> tuple[int, int]:
    """(bytes, crc32)."""
    if isinstance(content, bytes):
        return len(content), zlib.crc32(content)
    crc32 = 0
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return content.stat().st_size, crc32


def _placed(samples: Sequence[_Written], tar: Path) -> tuple[SampleRecord, ...]:
    """The samples' records with offsets and sizes found by reading the tar, which must hold what was written."""
    found = scan_tar(tar)
    if [key for key, *_ in found] != [record.key for record, _ in samples]:
        raise ReciprocalError(f"{tar.name}: {len(found)} samples read back, {len(samples)} written")
    records = []
    for (record, written), (key, offset, size, members) in zip(samples, found, strict=True):
        if {m.name: (m.size, m.crc32) for m in members} != written:
            raise ReciprocalError(f"{tar.name}: sample {key} does not read back as it was written")
        records.append(dataclasses.replace(record, offset=offset, size=size, members=members))
    return tuple(records)
