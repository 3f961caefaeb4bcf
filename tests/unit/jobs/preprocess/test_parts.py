"""Preprocessing's limits, counts, resources and choice of engine: what needs no Ray."""

from __future__ import annotations

import dataclasses

import pytest
import ray
import torch

from jobs.preprocess.command import resolve_engine
from jobs.preprocess.config import PreprocessConfig, limit
from jobs.preprocess.tally import Outcome, Tally, first_rejects
from jobs.preprocess.tasks import resources_for
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.shards import Reject, SampleRecord, ShardRecord
from pipeline.errors import ConfigError
from preprocessing.flow.factory import flow_engine
from preprocessing.shard.build import ShardSpec, parameter_hash
from preprocessing.shard.work import StageTimes


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("0", 50, 0),
        ("7", 50, 7),
        ("10%", 50, 5),
        ("0.1", 50, 5),
        ("5%", 50, 2),
        ("10%", 9, 0),
        ("29%", 100, 29),
        ("99.9%", 1000, 999),
        ("100%", 50, 50),
        ("1.0", 50, 50),
        ("2.5%", 40, 1),
        ("1", 50, 1),
    ],
)
def test_a_limit_is_a_number_or_a_share(text, total, expected):
    assert limit(text, total) == expected


@pytest.mark.parametrize("text", ["", "-1", "ten", "5 %", "1.5", "%", "101%", "100.01%", "1e2"])
def test_a_limit_that_is_neither_is_refused_with_the_field(text):
    with pytest.raises(ConfigError, match=r"max_rejects = .*give a number \(100\) or a share"):
        PreprocessConfig(format="folder", source="/videos", out="file:///out", max_rejects=text)


def record(name: str, rejects: list[tuple[str, int, str]]) -> ShardRecord:
    return ShardRecord(
        split="train",
        name=name,
        parameter_hash="p",
        sources_sha256="s",
        size=0,
        sha256="",
        samples=(),
        rejects=tuple(
            Reject(source=source, label=label, reason=reason, detail="seen") for source, label, reason in rejects
        ),
    )


def test_missing_videos_count_apart():
    tally = Tally()
    tally.add(
        Outcome.of(
            record("shard-000000", [("a", 0, "missing"), ("b", 1, "missing"), ("c", 1, "truncated")]),
            StageTimes(flow_s=2.0, pairs=5),
        )
    )
    tally.add(Outcome.of(record("shard-000001", [("d", 1, "missing")]), StageTimes(flow_s=1.0, pairs=2)))
    assert (tally.num_missing, tally.num_rejected) == (3, 1)
    assert tally.classes_of("missing") == [(1, 2), (0, 1)]
    assert (tally.times.flow_s, tally.times.pairs) == (3.0, 7)
    assert first_rejects(tally, ("run", "jump")) == "1 truncated; the first: c (jump): truncated: seen"
    assert first_rejects(tally, ("run", "jump"), 1, missing=True) == (
        "3 missing, 1 truncated; the first: a (run): missing: seen"
    )
    with pytest.raises(ValueError, match="was counted twice"):
        tally.add(Outcome.of(record("shard-000001", [])))


def test_samples_of_files_that_do_not_say_their_length_are_counted():
    samples = [
        SampleRecord(
            key="k", label=0, source="s", num_frames=2, fps=25, width=2, height=2, offset=0, size=1, members=(), **fact
        )
        for fact in ({"length_announced": False}, {"length_announced": True}, {})  # older records do not know
    ]
    tally = Tally()
    tally.add(Outcome.of(dataclasses.replace(record("shard-000000", []), samples=tuple(samples))))
    tally.add(Outcome.of(record("shard-000001", [])))
    assert tally.num_maybe_cut == 1


def test_a_million_rejects_keep_a_few_examples():
    tally = Tally()
    for i in range(100):
        tally.add(Outcome.of(record(f"shard-{i:06d}", [(f"{i}-{j}", j % 3, "missing") for j in range(100)])))
    assert tally.num_missing == 10_000
    assert sum(len(kept) for kept in tally.examples.values()) < 50


def test_the_hash_covers_engine_version_and_numbers():
    stored, flow = StoredConfig(), flow_engine("numba").describe()
    hashes = {
        parameter_hash(stored, flow),
        parameter_hash(stored, {**flow, "version": "other"}),
        parameter_hash(stored, {**flow, "parameters": {**flow["parameters"], "warps": 4}}),
        parameter_hash(dataclasses.replace(stored, crf=21), flow),
        parameter_hash(stored, None),
    }
    assert len(hashes) == 5


def test_an_option_that_is_off_leaves_the_hash_of_data_sets_from_before_it():
    assert parameter_hash(StoredConfig(), None) == "7d21dc4573fb"  # printed by the version before square_pixels
    assert parameter_hash(StoredConfig(square_pixels=True), None) != "7d21dc4573fb"


def test_auto_is_the_gpus_engine_where_there_is_one(monkeypatch):
    config = PreprocessConfig(format="folder", source="/videos", out="file:///out")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for gpu, engine in ((True, "torch"), (False, "numba")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert resolve_engine(config).flow_engine == engine
        assert resolve_engine(dataclasses.replace(config, flow_engine="opencv")).flow_engine == "opencv"
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert resolve_engine(config).flow_engine == "torch"


def test_tasks_of_a_gpu_engine_share_a_gpu(monkeypatch):
    spec = ShardSpec(classes=("a",), stored=StoredConfig(), flow={"engine": "torch"}, parameter_hash="p")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert (resources_for(spec, 0.5).num_gpus, resources_for(spec, 0.5).num_cpus) == (0.5, 2)
    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, {"Alive": False, "Resources": {"CPU": 2.0, "GPU": 2.0}}])
    assert (resources_for(spec, 0.0).num_gpus, resources_for(spec, 0.0).num_cpus) == (0.5, 2)
    assert resources_for(dataclasses.replace(spec, flow={"engine": "numba"}), 0.5).num_gpus == 0
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    assert resources_for(spec, 0.5).num_gpus == 0
