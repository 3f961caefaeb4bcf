"""What earlier runs left at --out, and which of it this run may keep."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.tally import Outcome
from jobs.preprocess.target import changed
from jobs.verify.tasks import verify_shards
from pipeline.common.words import counted
from pipeline.config.base import as_dict
from pipeline.dataset.manifest import MANIFEST, Manifest, read_manifest
from pipeline.dataset.shards import ShardRecord
from pipeline.errors import ManifestError, NotAFileError, NotFoundError, ReciprocalError, UserError
from pipeline.storage import Storage
from preprocessing.shard.build import ShardSpec, committed_record
from preprocessing.shard.plan import ShardPlan

log = logging.getLogger(__name__)
_THREADS = 16  # small GETs in flight while looking for finished shards


def finished_shards(
    plans: Sequence[ShardPlan], spec: ShardSpec, storage: Storage, *, retry_rejected: bool
) -> Iterator[Outcome]:
    """Outcomes of the shards that are stored with the same sources and parameters; those to be retried are left out."""

    def look(plan: ShardPlan) -> Outcome | None:
        record = committed_record(plan, spec, storage)
        return None if record is None or (retry_rejected and record.rejects) else Outcome.of(record)

    with ThreadPoolExecutor(_THREADS) as pool:
        # Records are large: a thousand at a time, and only their sums are kept.
        for start in range(0, len(plans), 1024):
            yield from (outcome for outcome in pool.map(look, plans[start : start + 1024]) if outcome is not None)


def sound_shards(outcomes: Sequence[Outcome], made: Manifest, storage: Storage) -> Iterator[Outcome]:
    """Those of ``outcomes`` whose stored bytes are what the record says, and the record what the manifest says.

    Tar, index and record of every shard are read, and no video is decoded, as ``jobs.verify --decode none`` does.

    Args:
        made: the manifest of ``outcomes``, in which a stored manifest that can be read takes the place of its own
            entries.

    Raises:
        ReciprocalError: the storage failed, which says nothing about the shard.
    """
    listed = {}
    with contextlib.suppress(ManifestError):
        listed = {entry.path: entry for entry in read_manifest(storage).shards}
    expected = dataclasses.replace(made, shards=tuple(listed.get(entry.path, entry) for entry in made.shards))
    damaged: dict[str, str] = {}
    for entry, result in verify_shards(storage, expected, "none"):
        if isinstance(result, str):
            raise ReciprocalError(f"{storage.uri}/{entry.path} could not be compared with its record: {result}")
        if result.faults:
            damaged[entry.path] = str(result.faults[0])
    if damaged:
        log.warning(
            "%s: %s built again, because the stored bytes differ from the record (first: %s)",
            storage.uri,
            counted(len(damaged), "shard is", "shards are"),
            next(iter(damaged.values())),
        )
    yield from (outcome for outcome in outcomes if outcome.entry.path not in damaged)


def check_replaceable(storage: Storage) -> None:
    """UserError if something that is no file is where the manifest will be written."""
    try:
        storage.size(MANIFEST)
    except NotAFileError as error:
        raise UserError(f"{error}: move it away, or use another --out") from error
    except NotFoundError:
        pass


def is_finished(config: PreprocessConfig, storage: Storage) -> bool:
    """Whether there is a finished data set that this command shall not replace."""
    return not config.overwrite and storage.exists(MANIFEST)


def existing_manifest(
    config: PreprocessConfig, spec: ShardSpec, storage: Storage, plans: Sequence[ShardPlan], kept: set[str]
) -> Manifest | None:
    """The manifest of a finished data set that this command would produce again; None if there is none (any more).

    With --overwrite, or with --retry-rejected when shards must be built again, it is deleted: from then on the data
    set is unfinished.

    Args:
        kept: paths of the shards that stay as they are.

    Raises:
        UserError: there is one with other parameters, classes or sources, and --overwrite was not given.
    """
    if not storage.exists(MANIFEST):
        return None
    if config.overwrite:
        storage.delete(MANIFEST)  # first: from here on its shards may change
        return None
    where, fix = f"{storage.uri}/{MANIFEST}", "use another --out, or --overwrite to replace it"
    manifest = read_manifest(storage, fix="run the same command with --overwrite, which writes it again")
    _check_same_spec(manifest, config, spec, f"{where} was made", fix)
    others = [
        plan
        for plan in plans
        if plan.path not in kept and _has_other_sources(plan, storage, only_sound=config.retry_rejected)
    ]
    if [s.path for s in manifest.shards] != [p.path for p in plans] or others:
        retry = (
            ""
            if config.retry_rejected or not others
            else "; if rejected videos were fixed or have arrived: --retry-rejected"
        )
        raise UserError(f"{where} was made of other videos (or with another --samples-per-shard): {fix}{retry}")
    if config.retry_rejected and len(kept) < len(plans):
        storage.delete(MANIFEST)
        return None
    return manifest


def _check_same_spec(manifest: Manifest, config: PreprocessConfig, spec: ShardSpec, where: str, fix: str) -> None:
    if manifest.parameter_hash != spec.parameter_hash:
        asked, had = {**as_dict(spec.stored), "flow": spec.flow}, {**manifest.parameters, "flow": manifest.flow}
        raise UserError(f"{where} with other parameters ({changed(had, asked)}): {fix}")
    if manifest.dataset != config.dataset or manifest.classes != spec.classes:
        raise UserError(
            f"{where} as data set {manifest.dataset!r} with {counted(len(manifest.classes), 'class', 'classes')},"
            f" not {config.dataset!r} with {len(spec.classes)}: {fix}"
        )


def _has_other_sources(plan: ShardPlan, storage: Storage, *, only_sound: bool) -> bool:
    """Whether the stored record of a shard is of other sources; a missing or damaged one is not: it is built again.

    With ``only_sound``, a record with rejects may differ, because rejects are what is retried.
    """
    try:
        record = ShardRecord.from_json(storage.read(f"{plan.path}.json"), plan.path)
    except (NotFoundError, ManifestError):
        return False
    if (
        only_sound
        and record.rejects
        and {x.source for x in record.rejects} | {s.source for s in record.samples} == {s.name for s in plan.sources}
    ):
        return False
    return record.sources_sha256 != plan.sources_sha256


def remove_leftovers(storage: Storage, plans: Sequence[ShardPlan], entries_with_tar: set[str]) -> None:
    """Delete shards of an earlier, replaced data set. Called after the new manifest is written, so that nothing
    listed is ever missing.
    """
    wanted = {f"{path}.{ending}" for path in entries_with_tar for ending in ("tar", "idx")} | {
        f"{plan.path}.json" for plan in plans
    }
    for split in ("train", "val", "test"):
        for path in list(storage.list(f"{split}/shard-")):
            if path not in wanted:
                storage.delete(path)
