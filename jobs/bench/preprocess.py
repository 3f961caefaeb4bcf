"""How much of preprocessing is flow: clips a second of the whole job against those of flow alone, on the same cores.

    python -m jobs.bench preprocess --format ucf101 --source VIDEOS --annotations LISTS --json bench.json

The data set goes to a temporary folder and is deleted. ``ratio`` near 1 means that decoding, encoding, checking and
storing hide behind the flow, or cost little next to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import ray
from rich.table import Table

from jobs.cluster.connect import connect
from jobs.preprocess.command import preprocess, resolve_engine
from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.tasks import Job, remote_options, resources_for, spec_for
from pipeline.common.cli import console, parse
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import RejectedSource
from pipeline.storage import open_storage
from preprocessing.annotations import Source, read_annotations
from preprocessing.flow.base import to_gray
from preprocessing.media.decode import decode_video
from preprocessing.shard.plan import plan_shards
from preprocessing.shard.stages import engine_for
from preprocessing.sources import open_sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchPreprocess:
    """Which videos, how stored; fields as of jobs.preprocess."""

    format: Literal["folder", "csv", "ucf101", "hmdb51", "kinetics", "moments"]
    source: str
    annotations: str = ""
    split_index: int = 1
    flow_engine: Literal["auto", "opencv", "numba", "torch"] = "auto"
    samples_per_shard: int = 6
    """Small, so that a short run keeps all cores busy to its end."""
    json: Path | None = None
    stored: StoredConfig = dataclasses.field(default_factory=StoredConfig)

    def job(self) -> PreprocessConfig:
        """The job to measure; where it writes to is decided later."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "json"}
        return PreprocessConfig(**fields, out="file:///bench")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowAlone:
    """One task's share of the comparison."""

    clips: int
    pairs: int
    flow_s: float


@ray.remote
def _flow_alone(sources: Sequence[Source], job: Job) -> FlowAlone:
    """Decode each clip beforehand; only the flow is timed."""
    cv2.setNumThreads(1)
    stored, engine = job.spec.stored, engine_for(job.spec.stored)
    clips, pairs, flow_s = 0, 0, 0.0
    for source in sources:
        with contextlib.suppress(RejectedSource), job.store.local(source.path) as path:
            frames = decode_video(
                path,
                short_side=stored.short_side,
                fps=stored.fps,
                start_s=source.start_s,
                end_s=source.end_s,
                max_frames=stored.max_frames,
            )
            gray = to_gray(frames.frames_rgb_THWC)
            if not clips:
                engine.flow(gray[:2])  # compiling is no cost of a clip
            start_s = time.perf_counter()
            engine.flow(gray)
            flow_s += time.perf_counter() - start_s
            clips, pairs = clips + 1, pairs + len(gray) - 1
    return FlowAlone(clips=clips, pairs=pairs, flow_s=flow_s)


def bench_preprocess(config: PreprocessConfig, json_file: Path | None) -> dict[str, float]:
    """Run flow alone on all of a data set's clips, then the whole job, on the same cluster; print and return the
    figures.

    Args:
        config: of a whole run; its ``out`` is replaced by a temporary folder.

    Returns:
        ``flow_alone_clips_per_s``, ``job_clips_per_s``, ``ratio``, ``pairs``, ``clips``, ``slots`` and seconds.
    """
    connect()
    store = open_sources(config.source)
    annotations = read_annotations(
        config.format, store, config.lists, config.split_index, any_classes=config.any_classes
    )
    plans = plan_shards(annotations, store.sizes({s.path for s in annotations.sources}), config.samples_per_shard)
    spec = spec_for(annotations.classes, resolve_engine(config), config.gpu_share)
    job = Job(store=store, spec=spec, storage=open_storage(config.out))
    resources = resources_for(spec, config.gpu_share)
    cluster = ray.cluster_resources()
    slots = int(cluster["GPU"] / resources.num_gpus if resources.num_gpus else cluster["CPU"] / resources.num_cpus)
    options = remote_options(resources)
    parts: list[FlowAlone] = ray.get(
        [_flow_alone.options(**options).remote([p.source for p in plan.present], job) for plan in plans if plan.present]
    )
    clips, pairs, flow_s = sum(p.clips for p in parts), sum(p.pairs for p in parts), sum(p.flow_s for p in parts)
    with tempfile.TemporaryDirectory(prefix="reciprocal-bench-") as folder:
        start_s = time.perf_counter()
        manifest = preprocess(dataclasses.replace(config, out=f"file://{folder}/out", name="bench"))
        job_s = time.perf_counter() - start_s
    assert isinstance(manifest, Manifest)
    figures = {
        "clips": float(clips),
        "pairs": float(pairs),
        "slots": float(slots),
        "flow_alone_s": flow_s / slots,
        "job_s": job_s,
        "flow_alone_clips_per_s": clips * slots / flow_s,
        "job_clips_per_s": manifest.num_samples / job_s,
        "ratio": flow_s / slots / job_s * manifest.num_samples / clips,
        "flow_ms_per_pair": 1000 * flow_s / pairs,
    }
    table = Table(
        title=f"{spec.stored.flow_engine} flow at short side {spec.stored.short_side}, {slots} tasks at a time",
        title_justify="left",
        show_header=False,
    )
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def run(arguments: Sequence[str]) -> int:
    """The subcommand; returns 0."""
    config = parse(BenchPreprocess, args=arguments, prog="python -m jobs.bench preprocess", description=__doc__)
    bench_preprocess(config.job(), config.json)
    return 0
