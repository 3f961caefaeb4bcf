"""Options of a small ``jobs.preprocess``, and a stand-in for its tasks that needs neither Ray nor MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.tally import Outcome, Tally
from jobs.preprocess.tasks import Job
from pipeline.config.preprocess import StoredConfig
from pipeline.storage.lease import Lease
from preprocessing.shard.build import build_shard
from preprocessing.shard.plan import ShardPlan

PLAIN = StoredConfig(short_side=32, modalities=("rgb",))


def config(videos: Path, tmp_path: Path, **changes) -> PreprocessConfig:
    """From the lists and videos of a synthetic set to ``tmp_path/out``, RGB alone, two videos a shard."""
    fields = {
        "format": "ucf101",
        "source": str(videos / "videos"),
        "annotations": str(videos),
        "out": f"file://{tmp_path}/out",
        "samples_per_shard": 2,
        "stored": PLAIN,
    }
    return PreprocessConfig(**{**fields, **changes})


def build_here(
    todo: Sequence[ShardPlan], job: Job, config: PreprocessConfig, tally: Tally, num_present: int, lease: Lease
) -> None:
    """In place of ``jobs.preprocess.command.build_all``: shards are built in this process."""
    for plan in todo:
        tally.add(Outcome.of(build_shard(plan, store=job.store, spec=job.spec, storage=job.storage)))
        lease.check()
