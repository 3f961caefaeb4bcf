"""Synthetic videos, generated and stored in this process as jobs.preprocess stores them, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.base import as_dict
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of
from pipeline.storage import open_storage
from preprocessing.annotations import read_ucf101
from preprocessing.shard.build import ShardSpec, build_shard
from preprocessing.shard.plan import plan_shards
from preprocessing.sources import open_sources
from preprocessing.synthetic.generate import SyntheticConfig, generate


def store_synthetic(base: Path, name: str, stored: StoredConfig, samples_per_shard: int, **synthetic: Any) -> str:
    """Generate videos in ``base/raw``, store them in ``base/set`` and return the data set's URI.

    Args:
        name: of the data set, in its manifest.
        synthetic: fields of ``SyntheticConfig`` besides ``out``.
    """
    generate(SyntheticConfig(out=base / "raw", **synthetic))
    storage = open_storage(f"file://{base}/set")
    annotations = read_ucf101(base / "raw")
    store, spec = open_sources(str(base / "raw" / "videos")), ShardSpec.of(annotations.classes, stored)
    plans = plan_shards(annotations, store.sizes({s.path for s in annotations.sources}), samples_per_shard)
    records = [build_shard(p, store=store, spec=spec, storage=storage) for p in plans]
    manifest = Manifest(
        dataset=name,
        classes=annotations.classes,
        modalities=stored.modalities,
        parameters=as_dict(stored),
        parameter_hash=spec.parameter_hash,
        code_version=name,
        shards=tuple(entry_of(r) for r in records),
        flow=spec.flow,
    )
    storage.write(MANIFEST, manifest.to_json())
    return storage.uri
