"""Turn raw videos and their annotations into a stored data set: shards, indexes, records and a manifest.

    python -m preprocessing.synthetic ~/toy
    python -m jobs.preprocess --format ucf101 --source ~/toy/videos --annotations ~/toy --out file://$HOME/toy-shards --stored.short-side 64

Reads    --source (a folder every node sees) and --annotations (classInd.txt and split lists, for ucf101).
Writes   OUT/SPLIT/shard-NNNNNN.{tar,idx,json}    one Ray task a shard; the record (.json) last
         OUT/manifest.json                        LAST: if it exists, the data set is finished
Restart  The same command builds the shards that have no record yet, and those whose sources have changed.
         A finished data set is not touched: other parameters or sources need another --out, or --overwrite.
Exit     0 finished. 2 refused before any video was read. 1 failed while running: mend it and run the same command again.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from jobs.cli import console, parse, run_main
from jobs.preprocess_tasks import run_shards
from jobs.ray_runtime import connect
from pipeline.config.base import as_dict, config_hash, require
from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ConfigError, ManifestError, NotFoundError, ReciprocalError, UserError
from pipeline.manifest import MANIFEST, Manifest, entry_of, read_manifest
from pipeline.shards import ShardRecord
from pipeline.storage import Storage, open_storage
from preprocessing.annotations import Annotations, check_source_root, read_folder, read_ucf101
from preprocessing.build import code_version, committed_record
from preprocessing.plan import ShardPlan, plan_shards

log = logging.getLogger(__name__)
_PROBE_THREADS = 16  # small GETs in flight while looking for finished shards
_DEFAULT_REJECT_SHARE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What to read, where to write, and how samples are stored."""

    format: Literal["folder", "ucf101"]
    """folder: SOURCE/[SPLIT/]CLASS/FILE. ucf101: classInd.txt and trainlist0N.txt, testlist0N.txt, vallist0N.txt."""
    source: str
    """Folder of the videos: a path or file:///FOLDER that every node sees."""
    out: str
    """Where the data set goes: s3://BUCKET/PREFIX or file:///FOLDER."""
    annotations: str = ""
    """Folder of the lists (ucf101); default: --source."""
    split_index: int = 1
    """N of trainlist0N.txt (ucf101)."""
    name: str = ""
    """The data set's name in the manifest; default: the last part of --out."""
    samples_per_shard: int = 64
    max_rejects: int = -1
    """Sources that may be rejected before the run fails; -1: a tenth of them."""
    overwrite: bool = False
    """Replace a finished data set. Runs that are reading it will fail."""
    stored: StoredConfig = dataclasses.field(default_factory=StoredConfig)

    def __post_init__(self) -> None:
        require(not self.source.startswith("s3://"), "source", self.source, "videos are read from a file system: give a folder that every node sees (copy or mount the bucket)")
        require(self.out.startswith(("s3://", "file://")), "out", self.out, "give s3://BUCKET/PREFIX or file:///FOLDER")
        require(not (self.format == "folder" and self.annotations), "annotations", self.annotations, "the folder format has none: leave it out, or use --format ucf101")
        require(1 <= self.split_index <= 99, "split_index", self.split_index, "must be in 1..99")
        require(self.samples_per_shard >= 1, "samples_per_shard", self.samples_per_shard, "must be at least 1")
        require(self.max_rejects >= -1, "max_rejects", self.max_rejects, "must be -1 (a tenth of the sources), 0 or more")

    @property
    def root(self) -> Path:
        """The folder that sources are relative to."""
        return Path(self.source.removeprefix("file://")).expanduser().absolute()

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.name or self.out.rstrip("/").rsplit("/", 1)[-1]

    def reject_limit(self, num_inputs: int) -> int:
        """Largest number of rejects that still gives a data set."""
        return self.max_rejects if self.max_rejects >= 0 else math.ceil(_DEFAULT_REJECT_SHARE * num_inputs)


def read_annotations(config: PreprocessConfig) -> Annotations:
    """Classes and sources; UserError where the lists are wrong or belong to another folder."""
    if not config.root.is_dir():
        raise ConfigError("source", config.source, "is not a folder on this machine")
    if config.format == "folder":
        return read_folder(config.root)
    annotations = read_ucf101(Path(config.annotations.removeprefix("file://")).expanduser() if config.annotations else config.root, config.split_index)
    check_source_root(config.root, annotations)
    return annotations


def preprocess(config: PreprocessConfig) -> Manifest:
    """Check everything, build what is missing, write the manifest, and return it.

    Raises:
        UserError: refused; nothing was built.
        ReciprocalError: shards failed, or more sources were rejected than allowed; what was built is kept.
    """
    start_s = time.perf_counter()
    annotations = read_annotations(config)
    plans = plan_shards(annotations, config.root, config.samples_per_shard)
    storage = open_storage(config.out)
    storage.probe(write=True)
    with ThreadPoolExecutor(_PROBE_THREADS) as pool:
        found = pool.map(lambda plan: committed_record(plan, config.stored, storage), plans)
        records = {plan.path: record for plan, record in zip(plans, found, strict=True) if record is not None}
    existing = _existing_manifest(config, storage, annotations, plans, records)
    todo = [plan for plan in plans if plan.path not in records]
    num_inputs = len(annotations.sources)
    console.print(f"{num_inputs} videos, {len(annotations.classes)} classes, {len(plans)} shards; {len(records)} shards are there already, {len(todo)} to build")
    limit = config.reject_limit(num_inputs)
    num_built = 0
    if todo:
        connect()
        built = run_shards(todo, root=config.root, classes=annotations.classes, stored=config.stored, storage=storage, rejects_left=limit - _num_rejects(records))
        records |= built
        num_built = sum(len(plan.sources) for plan in todo)
    rejects = [reject for plan in plans for reject in records[plan.path].rejects]
    for reason, count in Counter(reject.reason for reject in rejects).most_common():
        log.warning("rejected %d: %s (first: %s)", count, reason, next(r.source for r in rejects if r.reason == reason))
    if len(rejects) > limit:
        raise ReciprocalError(f"{len(rejects)} of {num_inputs} sources are rejected, more than {limit}: mend them, or allow it with --max-rejects {len(rejects)}")
    manifest = existing or _make_manifest(config, annotations, plans, records)
    if existing is None:
        if manifest.num_samples == 0:
            raise ReciprocalError(f"all {num_inputs} sources were rejected; there is no data set to write")
        if manifest.num_inputs != num_inputs:
            raise ReciprocalError(f"{num_inputs} sources went in, {manifest.num_samples} samples and {manifest.num_rejects} rejects came out")
        storage.write(MANIFEST, manifest.to_json())
        _remove_leftovers(storage, plans)
    elif manifest.shards != tuple(entry_of(records[plan.path]) for plan in plans):
        raise ReciprocalError(f"{storage.uri}: repaired shards differ from the manifest, so other software made them; use another --out or --overwrite")
    seconds = time.perf_counter() - start_s
    console.print(
        f"{num_inputs} videos = {manifest.num_samples} samples + {manifest.num_rejects} rejected, {manifest.split_sizes()}; "
        f"{num_built} processed in {seconds:.1f} s ({num_built / seconds:.2f} clips/s)\n{storage.uri}/{MANIFEST} sha256 {manifest.digest}"
    )
    return manifest


def _num_rejects(records: dict[str, ShardRecord]) -> int:
    return sum(len(record.rejects) for record in records.values())


def _make_manifest(config: PreprocessConfig, annotations: Annotations, plans: Sequence[ShardPlan], records: dict[str, ShardRecord]) -> Manifest:
    return Manifest(
        dataset=config.dataset,
        classes=annotations.classes,
        modalities=config.stored.modalities,
        parameters=as_dict(config.stored),
        parameter_hash=config_hash(config.stored),
        code_version=code_version(),
        shards=tuple(entry_of(records[plan.path]) for plan in plans),
    )


def _existing_manifest(
    config: PreprocessConfig, storage: Storage, annotations: Annotations, plans: Sequence[ShardPlan], records: dict[str, ShardRecord]
) -> Manifest | None:
    """The manifest of a finished data set that this command would make again; None where there is none (any more).

    Raises:
        UserError: there is one of other parameters, classes or sources, and --overwrite was not given.
    """
    if not storage.exists(MANIFEST):
        return None
    if config.overwrite:
        storage.delete(MANIFEST)  # first: from here on its shards may change
        return None
    where, fix = f"{storage.uri}/{MANIFEST}", "use another --out, or --overwrite to replace it"
    try:
        manifest = read_manifest(storage)
    except ManifestError as error:
        raise UserError(f"{error}; {fix}") from error
    asked = as_dict(config.stored)
    if manifest.parameter_hash != config_hash(config.stored):
        changed = [f"{k} {manifest.parameters.get(k)!r} -> {asked.get(k)!r}" for k in sorted({*asked, *manifest.parameters}) if manifest.parameters.get(k) != asked.get(k)]
        raise UserError(f"{where} was made with other parameters ({', '.join(changed)}): {fix}")
    if manifest.dataset != config.dataset or manifest.classes != annotations.classes:
        raise UserError(f"{where} is data set {manifest.dataset!r} with {len(manifest.classes)} classes, not {config.dataset!r} with {len(annotations.classes)}: {fix}")
    if [s.path for s in manifest.shards] != [p.path for p in plans] or any(_has_other_sources(plan, storage) for plan in plans if plan.path not in records):
        raise UserError(f"{where} was made of other videos (or of another --samples-per-shard): {fix}")
    return manifest


def _has_other_sources(plan: ShardPlan, storage: Storage) -> bool:
    """Whether the stored record of a shard is of other sources; a missing or damaged one is not: it can be mended."""
    try:
        return ShardRecord.from_json(storage.read(f"{plan.path}.json"), plan.path).sources_sha256 != plan.sources_sha256
    except (NotFoundError, ManifestError):
        return False


def _remove_leftovers(storage: Storage, plans: Sequence[ShardPlan]) -> None:
    """Delete shards of an earlier, replaced data set; after the new manifest is written, so nothing listed is missing."""
    wanted = {f"{plan.path}.{ending}" for plan in plans for ending in ("tar", "idx", "json")}
    for split in ("train", "val", "test"):
        for path in list(storage.list(f"{split}/shard-")):
            if path not in wanted:
                storage.delete(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code documented at the top of this file."""
    preprocess(parse(PreprocessConfig, args=argv, description=__doc__))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
