"""Completes and checks a run's config before any worker starts."""

from __future__ import annotations

import dataclasses

from jobs.train.forecast import norm_warning
from pipeline.config.train import TrainConfig
from pipeline.data.preflight import DataPlan, check_data
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError
from pipeline.runs.folder import check_run_id, default_output, default_run_id
from pipeline.runs.start_weights import StartWeights, find_start
from pipeline.storage import open_storage


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that can start: its whole config, and what was found out on the way."""

    config: TrainConfig
    manifest: Manifest
    plan: DataPlan
    start: StartWeights | None
    warnings: tuple[str, ...] = ()
    """What works but is hardly meant, one line each."""


def prepare(config: TrainConfig) -> Prepared:
    """Fill in what follows from the data set and from the weights to start from, and check that all fit. Raises
    UserError.
    """
    if not config.data.uri:
        raise ConfigError(
            "data.uri", "", "give the data set: --data.uri s3://BUCKET/PREFIX, as jobs.preprocess printed it"
        )
    if config.run.run_id:
        check_run_id(config.run.run_id)
    storage = open_storage(config.data.uri)
    storage.probe(write=False)
    manifest = read_manifest(storage)
    plan = check_data(
        storage,
        manifest,
        data=config.data,
        clip=config.clip,
        modalities=config.model.modalities,
        world_size=config.run.num_workers,
    )
    name = config.data.validation
    if config.stop.patience and not plan.samples[name]:
        raise ConfigError("stop.patience", config.stop.patience, f"split {name!r} has no video to decide by: use 0")
    config, start = find_start(config, manifest.classes)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, manifest_digest=manifest.digest))
    output = config.run.output or default_output(config.data.uri)
    run = dataclasses.replace(
        config.run, output=output, run_id=config.run.run_id or default_run_id(config, manifest.digest)
    )
    config = dataclasses.replace(config, run=run)
    few = norm_warning(config, len(manifest.classes))
    return Prepared(config, manifest, plan, start, (*plan.warnings, few) if few else plan.warnings)
