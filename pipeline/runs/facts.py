"""What identifies a run's checkpoints, from its configuration and the data set's manifest."""

from __future__ import annotations

from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest
from pipeline.training.checkpoint import RunFacts


def run_facts(
    config: TrainConfig, manifest: Manifest, *, code_version: str, run_id: str, tracking_run_id: str = ""
) -> RunFacts:
    """Of a run on the data set of that manifest."""
    return RunFacts(
        config=config,
        manifest_digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        stored=manifest.parameters,
        code_version=code_version,
        run_id=run_id,
        tracking_run_id=tracking_run_id,
    )
