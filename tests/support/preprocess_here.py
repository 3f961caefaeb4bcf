"""Options of a small ``jobs.preprocess`` for the fixtures of ``tests/unit/jobs/preprocess``."""

from __future__ import annotations

from pathlib import Path

from jobs.preprocess.config import PreprocessConfig
from pipeline.config.preprocess import StoredConfig

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
