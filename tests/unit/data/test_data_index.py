"""The index gives back what the records say, and preflight refuses what cannot work."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.index import load_index
from pipeline.data.preflight import check_data
from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import read_records
from pipeline.shards import split_members

CLIP = ClipConfig(num_frames=4, crop=32)


@pytest.mark.parametrize("modalities", [("rgb",), ("flow", "rgb"), ("diff",), ("rgb", "flow", "diff")])
def test_index_is_the_records(counter_set, modalities) -> None:
    index = load_index(counter_set.storage, counter_set.manifest, "train", modalities)
    records = [(f"{r.path}.tar", s) for r in read_records(counter_set.storage, counter_set.manifest, "train") for s in r.samples]
    index = pickle.loads(pickle.dumps(index))
    assert len(index) == len(records) == 13
    for i, (tar, sample) in enumerate(records):
        found = index.record(i)
        wanted = dataclasses.asdict(sample)
        for name in ("key", "label", "source", "num_frames", "fps", "width", "height"):
            assert getattr(found, name) == wanted[name]
        assert index.tar(i) == tar
        assert {m.name: m for m in found.members} == {m.name: m for m in sample.members if m.name.split(".")[0] in modalities}
        data = counter_set.storage.read_range(tar, found.offset, found.size)
        assert set(split_members(found, data)) == {f"{m}.mp4" for m in modalities}
        assert found.size <= sample.size
    assert index.class_counts().tolist() == np.bincount([s.label for _, s in records], minlength=3).tolist()


def test_what_is_not_there_is_named(counter_set) -> None:
    with pytest.raises(ManifestError, match=r"no samples in split 'test', only \{'train': 13, 'val': 5\}"):
        load_index(counter_set.storage, counter_set.manifest, "test", ("rgb",))
    without = dataclasses.replace(counter_set.manifest, modalities=("rgb",))
    with pytest.raises(ManifestError, match="stores rgb; asked for rgb, flow"):
        load_index(counter_set.storage, without, "train", ("rgb", "flow"))
    fewer = dataclasses.replace(counter_set.manifest, classes=("a", "b"))
    with pytest.raises(ManifestError, match=r"labels 0\.\.2, but the manifest names 2 classes"):
        load_index(counter_set.storage, fewer, "train", ("rgb",))


def preflight(stored, data: DataConfig, clip: ClipConfig = CLIP, *, modalities: tuple[str, ...] = ("rgb", "flow"), **changes):
    manifest = dataclasses.replace(stored.manifest, **changes)
    return check_data(stored.storage, manifest, data=data, clip=clip, modalities=modalities, world_size=2)


def test_preflight_counts(counter_set) -> None:
    assert preflight(counter_set, DataConfig(batch_size=4)) == {"train": 13, "val": 5, "steps": 4}
    no_val = DataConfig(batch_size=4, val_split="", manifest_digest=counter_set.manifest.digest)
    assert preflight(counter_set, no_val) == {"train": 13, "steps": 4}


def test_preflight_refuses(counter_set) -> None:
    cases = [
        (ConfigError, r"data\.batch_size = 5.*use 4 or 6", DataConfig(batch_size=5), {}),
        (ConfigError, r"data\.manifest_digest = 'beef'", DataConfig(batch_size=4, manifest_digest="beef"), {}),
        (ConfigError, r"data\.val_split = 'valid'.*train, val", DataConfig(batch_size=4, val_split="valid"), {}),
        (ConfigError, r"data\.train_split = 'tr'", DataConfig(batch_size=4, train_split="tr"), {}),
        (ConfigError, r"clip\.crop = 112.*stored 48 px.*at most 84", DataConfig(batch_size=4), {"clip": ClipConfig(crop=112)}),
        (ManifestError, "1 of 4 classes have no sample in split 'train': x", DataConfig(batch_size=4), {"classes": ("a", "b", "c", "x")}),
        (ManifestError, "asked for rgb, pose", DataConfig(batch_size=4), {"modalities": ("rgb", "pose")}),
    ]
    for kind, message, data, changes in cases:
        with pytest.raises(kind, match=message):
            preflight(counter_set, data, **changes)
    assert preflight(counter_set, DataConfig(batch_size=4), ClipConfig(crop=84))
