"""Turn raw videos and their annotations into a stored data set: shards, indexes, records and a manifest.

    python -m preprocessing.synthetic ~/toy
    python -m jobs.preprocess --format ucf101 --source ~/toy/videos --annotations ~/toy \\
        --out file://$HOME/toy-shards --stored.short-side 64

Reads    --source (a folder every node sees, a bucket, or archives in them) and --annotations.
Writes   OUT/SPLIT/shard-NNNNNN.{tar,idx,json}    one Ray task per shard; the record (.json) last
         OUT/manifest.json                        LAST: if it exists, the data set is finished
         a run in MLflow's experiment "preprocessing": parameters, rates, rejects, times of the stages
         OUT/.sources.json                        times or ETags of the sources, for the next run alone
Restart  The same command builds the shards that have no record yet, and those whose sources have changed.
         A finished data set is not touched: other parameters or sources need another --out, or --overwrite;
         --retry-rejected builds the shards with rejects again.
Lease    While it runs, a command keeps OUT/.lease-*.json, and refuses to start where another one writes something
         else. Equal commands may run at once.
Exit     0 finished. 2 refused before any video was read. 1 failed while running: fix the cause and run the same
         command again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

import ray
import torch

from jobs.cluster.connect import connect
from jobs.preprocess.config import PreprocessConfig, limit
from jobs.preprocess.estimate import estimate
from jobs.preprocess.existing import (
    check_replaceable,
    existing_manifest,
    finished_shards,
    is_finished,
    remove_leftovers,
    sound_shards,
)
from jobs.preprocess.places import check_apart
from jobs.preprocess.replaced import note_sources, replaced_shards
from jobs.preprocess.summary import RunLog, print_plan, print_summary, split_missing
from jobs.preprocess.tally import Outcome, Tally, first_rejects
from jobs.preprocess.target import check_stored, lease_target
from jobs.preprocess.tasks import Job, resources_for, run_shards, spec_for
from pipeline.common.cli import console, parse
from pipeline.common.words import counted
from pipeline.config.base import as_dict
from pipeline.config.preprocess import StoredConfig
from pipeline.config.stack import ray_address
from pipeline.dataset.manifest import MANIFEST, Manifest, ShardEntry
from pipeline.errors import ReciprocalError, UserError
from pipeline.storage import open_storage
from pipeline.storage.lease import Lease
from pipeline.storage.scratch import remove_abandoned
from preprocessing.annotations import Annotations, read_annotations
from preprocessing.shard.build import ShardSpec, build_shard
from preprocessing.shard.plan import ShardPlan, plan_shards
from preprocessing.shard.provenance import builder_version
from preprocessing.sources import open_sources

log = logging.getLogger(__name__)


def preprocess(config: PreprocessConfig) -> Manifest | None:
    """Check everything, build what is missing, write the manifest, and return it; None after a dry run.

    Raises:
        UserError: refused; nothing was built.
        ReciprocalError: shards failed, or more sources were rejected than allowed; what was built is kept.
    """
    start_s = time.perf_counter()
    check_apart(config.source, config.out)
    # Lists say which files are videos; a folder's listing must be told which are not.
    store = open_sources(config.source, data_sets=config.format not in ("folder", "pictures"))
    annotations = read_annotations(
        config.format, store, config.lists, config.split_index, any_classes=config.any_classes
    )
    paths = {s.path for s in annotations.sources}
    plans = plan_shards(annotations, store.sizes(paths), config.samples_per_shard, store.versions(paths))
    num_missing = len(split_missing(plans)[0])
    print_plan(annotations, plans, time.perf_counter() - start_s)
    _within("missing", num_missing, config.max_missing, len(annotations.sources))
    spec = spec_for(annotations.classes, resolve_engine(config), config.gpu_share)
    job = Job(store=store, spec=spec, storage=open_storage(config.out))
    if config.dry_run:
        connect()
        estimate(plans, job, resources_for(spec, config.gpu_share), config)
        return None
    job.storage.probe(write=True)
    check_replaceable(job.storage)
    remove_abandoned()
    tally = Tally()
    with lease_target(config.dataset, spec, plans, job.storage) as lease:
        replaced = replaced_shards(plans, store, job.storage, finished=is_finished(config, job.storage))
        outcomes = finished_shards(
            [plan for plan in plans if plan.path not in replaced],
            spec,
            job.storage,
            retry_rejected=config.retry_rejected,
        )
        if config.overwrite:
            kept = list(outcomes)
            outcomes = sound_shards(kept, _manifest(config, spec, [o.entry for o in kept]), job.storage)
        for outcome in outcomes:
            tally.add(outcome)
        existing = existing_manifest(config, spec, job.storage, plans, set(tally.entries))
        todo = [plan for plan in plans if plan.path not in tally.entries]
        stored = counted(len(tally.entries), "shard is", "shards are")
        console.print(f"{stored} stored already, {len(todo)} to build")
        note_sources(plans, tally.entries, store, job.storage)
        if todo:
            build_all(todo, job, config, tally, len(annotations.sources) - num_missing, lease)
        manifest = _finish(config, job, annotations, plans, tally, existing, lease)
    print_summary(
        config, manifest, annotations, tally, sum(len(p.present) for p in todo), time.perf_counter() - start_s
    )
    return manifest


def resolve_engine(config: PreprocessConfig) -> StoredConfig:
    """The stored form with ``auto`` replaced: torch where there is a GPU, else the form's own engine (numba)."""
    engine = config.flow_engine
    if engine == "auto":
        if ray_address() or ray.is_initialized():
            connect()
        gpu = ray.cluster_resources().get("GPU", 0) > 0 if ray.is_initialized() else torch.cuda.is_available()
        engine = "torch" if gpu and config.stored.flow_engine == "numba" else config.stored.flow_engine
    return dataclasses.replace(config.stored, flow_engine=engine)


def build_all(
    todo: Sequence[ShardPlan], job: Job, config: PreprocessConfig, tally: Tally, num_present: int, lease: Lease
) -> None:
    """Build shards and count them into ``tally``; an MLflow run follows it.

    Raises:
        ReciprocalError: shards failed, too many sources were rejected, or another command has taken over the target.
    """
    allowed = limit(config.max_rejects, num_present)
    run = RunLog.start(config, job, todo)

    def done(outcome: Outcome) -> bool:
        tally.add(outcome)
        run.progress(tally)
        return tally.num_rejected <= allowed

    try:
        # Shards whose videos are all missing need no worker: only a record is written.
        for plan in todo:
            if not plan.present:
                done(Outcome.of(build_shard(plan, store=job.store, spec=job.spec, storage=job.storage)))
        rest = [plan for plan in todo if plan.present]
        if rest:
            connect()
            run_shards(rest, job, resources_for(job.spec, config.gpu_share), done=done, waiting=lease.check)
        _within("rejected", tally.num_rejected, config.max_rejects, num_present, tally, job.spec.classes)
    except BaseException as error:
        run.finish(tally, job.spec.classes, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.finish(tally, job.spec.classes, "FINISHED")


def _within(
    what: str, count: int, allowed: str, total: int, tally: Tally | None = None, classes: Sequence[str] = ()
) -> None:
    if count <= limit(allowed, total):
        return
    first = f"; {first_rejects(tally, classes)}" if tally else ""
    # Missing videos are counted before any is read: a refusal.
    raise (UserError if what == "missing" else ReciprocalError)(
        f"{count} of {total} videos are {what}, more than --max-{'rejects' if what == 'rejected' else what} {allowed}:"
        f" fix them, or allow more{first}"
    )


def _manifest(config: PreprocessConfig, spec: ShardSpec, shards: Sequence[ShardEntry]) -> Manifest:
    return Manifest(
        dataset=config.dataset,
        classes=spec.classes,
        modalities=spec.stored.modalities,
        parameters=as_dict(spec.stored),
        parameter_hash=spec.parameter_hash,
        code_version=builder_version(),
        shards=tuple(shards),
        flow=spec.flow,
    )


def _finish(
    config: PreprocessConfig,
    job: Job,
    annotations: Annotations,
    plans: Sequence[ShardPlan],
    tally: Tally,
    existing: Manifest | None,
    lease: Lease,
) -> Manifest:
    """Write the manifest, last of all. For a data set that was finished before, check that repaired shards are the
    ones it lists.
    """
    storage, num_inputs = job.storage, len(annotations.sources)
    manifest = _manifest(config, job.spec, [tally.entries[plan.path] for plan in plans])
    if existing is not None:
        if manifest.shards != existing.shards:
            raise ReciprocalError(
                f"{storage.uri}: repaired shards differ from the manifest, so other software made them; use another"
                " --out or --overwrite"
            )
        return existing
    if manifest.num_samples == 0:
        raise ReciprocalError(
            f"all {counted(num_inputs, 'source')} were rejected, so there is no data set to write;"
            f" {first_rejects(tally, annotations.classes, missing=True)}"
        )
    if manifest.num_inputs != num_inputs:
        raise ReciprocalError(
            f"{num_inputs} sources went in, {manifest.num_samples} samples and {manifest.num_rejects} rejects came out"
        )
    lease.check(look=True)
    check_stored(manifest, storage)
    storage.write(MANIFEST, manifest.to_json())
    remove_leftovers(storage, plans, {entry.path for entry in manifest.shards if entry.num_samples})
    return manifest


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code documented at the top of this file."""
    preprocess(parse(PreprocessConfig, args=argv, description=__doc__))
    return 0
