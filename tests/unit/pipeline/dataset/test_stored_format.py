"""Tar, index, record and manifest against readers that are not ours."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of, read_manifest, read_records
from pipeline.dataset.sample import check_key, dequantise_flow, quantise_diff, quantise_flow, sample_key
from pipeline.dataset.shards import (
    SampleRecord,
    ShardRecord,
    dali_index,
    file_sha256,
    scan_tar,
    split_members,
)
from pipeline.errors import ConfigError, ManifestError, RejectedSource
from pipeline.storage import open_storage
from tests.support.tars import write_tar

SAMPLES = [
    ("one", {"rgb.mp4": b"r" * 700, "json": b"{}"}),
    ("two", {"rgb.mp4": b"s" * 512, "flow.mp4": b"", "json": b'{"a": 1}'}),
]


def record_of(tar: Path) -> ShardRecord:
    samples = tuple(
        SampleRecord(
            key=k, label=i, source=f"{k}.avi", num_frames=3, fps=25.0, width=8, height=8, offset=o, size=s, members=m
        )
        for i, (k, o, s, m) in enumerate(scan_tar(tar))
    )
    return ShardRecord(
        split="train",
        name="shard-000000",
        parameter_hash="h",
        sources_sha256="s",
        size=tar.stat().st_size,
        sha256=file_sha256(tar),
        samples=samples,
        rejects=(),
    )


def test_same_samples_same_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    write_tar(tmp_path / "b.tar", [(k, dict(reversed(m.items()))) for k, m in SAMPLES])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_bytes_are_those_of_webdatasets_own_writer(tmp_path: Path) -> None:
    files = []
    for key, members in SAMPLES:  # half of the members as files: they are never read whole
        for name, data in members.items():
            (tmp_path / f"{key}.{name}").write_bytes(data)
        files.append((key, {n: (tmp_path / f"{key}.{n}") if n.endswith("mp4") else d for n, d in members.items()}))
    write_tar(tmp_path / "ours.tar", files)
    options = {
        "encoder": False,
        "user": "reciprocal",
        "group": "reciprocal",
        "mode": 0o444,
        "mtime": 0,
        "compress": False,
    }
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), **options) as writer:
        for key, members in SAMPLES:
            writer.write({"__key__": key, **dict(sorted(members.items()))})
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_webdataset_reads_what_we_wrote(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    read = [
        {k: v for k, v in s.items() if not k.startswith("__")} | {"key": s["__key__"]}
        for s in webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    ]
    assert read == [{**m, "key": k} for k, m in SAMPLES]


def test_one_ranged_get_brings_a_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    for sample, (key, members) in zip(record_of(tmp_path / "a.tar").samples, SAMPLES, strict=True):
        assert sample.key == key
        assert split_members(sample, data[sample.offset : sample.offset + sample.size]) == members


def test_a_flipped_byte_is_seen(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    sample = record_of(tmp_path / "a.tar").samples[0]
    data = bytearray((tmp_path / "a.tar").read_bytes()[sample.offset : sample.offset + sample.size])
    data[sample.member("rgb.mp4").offset - sample.offset + 5] ^= 1
    with pytest.raises(ValueError, match=r"one\.rgb\.mp4: crc32"):
        split_members(sample, bytes(data))
    with pytest.raises(ValueError, match="bytes instead of"):
        split_members(sample, bytes(data[:-1]))


def test_the_dali_index_lists_each_members_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    lines = dali_index(record_of(tmp_path / "a.tar")).decode().splitlines()
    assert lines[0] == "v1.2 2"
    assert lines[1] == "json 512 2 one.json rgb.mp4 1536 700 one.rgb.mp4"


def test_double_and_dotted_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        write_tar(tmp_path / "a.tar", [SAMPLES[0], SAMPLES[0]])
    with pytest.raises(ValueError, match="no dot"):
        check_key("a.b")


@given(st.text(min_size=1, max_size=200))
def test_any_source_gives_a_legal_key(source: str) -> None:
    assert check_key(sample_key(source)) == sample_key(source)


def test_keys_of_same_named_files_differ() -> None:
    assert sample_key("a/x.mp4") != sample_key("b/x.mp4")
    assert sample_key("a/v_Diving_g01_c02.avi").startswith("v_Diving_g01_c02-")


@given(hnp.arrays(np.float32, (2, 2, 4, 4), elements=st.floats(-30, 30, width=32)))
def test_flow_codes_follow_the_formula(flow: np.ndarray) -> None:
    codes = quantise_flow(flow)
    stacked = np.concatenate([flow[:, 0], flow[:, 1]], axis=1)
    expected = np.round((np.clip(stacked.astype(np.float64), -20, 20) + 20) * 255 / 40)
    assert np.abs(codes - expected).max() <= 1  # a float32 product may round the other way at exact halves
    back = dequantise_flow(codes)
    assert np.abs(back - np.clip(flow, -20, 20)).max() <= 40 / 255 / 2 + 1e-4


def test_flow_codes_of_zero_and_of_the_bounds() -> None:
    flow = np.array([0.0, -20.0, 20.0, 99.0], np.float32).reshape(1, 1, 4).repeat(2, 0)
    assert quantise_flow(flow)[0].tolist() == [128, 0, 255, 255]


def test_difference_codes_are_the_clipped_difference_plus_128() -> None:
    frames = np.array([[0, 255, 10], [255, 0, 11]], np.uint8).reshape(2, 1, 1, 3)
    assert quantise_diff(frames).reshape(-1).tolist() == [255, 1, 129]


@pytest.fixture
def stored(tmp_path: Path):
    storage = open_storage(f"file://{tmp_path}/set")
    without_flow = [
        (key, {name: data for name, data in members.items() if name != "flow.mp4"}) for key, members in SAMPLES
    ]
    write_tar(tmp_path / "a.tar", without_flow)
    record = record_of(tmp_path / "a.tar")
    storage.write_file("train/shard-000000.tar", tmp_path / "a.tar")
    storage.write("train/shard-000000.json", record.to_json())
    manifest = Manifest(
        dataset="d",
        classes=("x", "y"),
        modalities=("rgb",),
        parameters={},
        parameter_hash="h",
        code_version="c",
        shards=(entry_of(record),),
    )
    storage.write(MANIFEST, manifest.to_json())
    return storage, manifest, record


def test_a_manifest_survives_its_json(stored) -> None:
    storage, manifest, record = stored
    assert read_manifest(storage) == manifest
    assert read_records(storage, manifest, "train") == [record]
    assert json.loads(storage.read(MANIFEST))["totals"] == {
        "inputs": 2,
        "samples": 2,
        "rejects": 0,
        "splits": {"train": 2},
    }


def test_manifest_faults_are_named(stored) -> None:
    storage, manifest, record = stored
    with pytest.raises(ManifestError, match="no samples in split 'val'"):
        read_records(storage, manifest, "val")
    storage.write("train/shard-000000.json", dataclasses.replace(record, parameter_hash="other").to_json())
    with pytest.raises(ManifestError, match="not the record that the manifest lists"):
        read_records(storage, manifest, "train")
    edited = json.loads(manifest.to_json())
    edited["totals"]["samples"] = 3
    storage.write(MANIFEST, json.dumps(edited).encode())
    with pytest.raises(ManifestError, match="do not add up"):
        read_manifest(storage)
    storage.write(MANIFEST, b"<html>")
    with pytest.raises(ManifestError, match="is not a manifest"):
        read_manifest(storage)
    storage.delete(MANIFEST)
    with pytest.raises(ManifestError, match=r"no data set is finished there; run jobs\.preprocess"):
        read_manifest(storage)


@pytest.mark.parametrize(
    "error", [ConfigError("a.b", 3, "use 4"), RejectedSource("empty", "0 bytes"), ManifestError("m")]
)
def test_errors_survive_pickling(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
