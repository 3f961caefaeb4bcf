"""The index gives back what the records say."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from pipeline.data.index import load_index
from pipeline.dataset.manifest import read_records
from pipeline.dataset.shards import split_members
from pipeline.errors import ManifestError


@pytest.mark.parametrize("modalities", [("rgb",), ("flow", "rgb"), ("diff",), ("rgb", "flow", "diff")])
def test_index_is_the_records(counter_set, modalities) -> None:
    index = load_index(counter_set.storage, counter_set.manifest, "train", modalities)
    records = [
        (f"{r.path}.tar", s)
        for r in read_records(counter_set.storage, counter_set.manifest, "train")
        for s in r.samples
    ]
    index = pickle.loads(pickle.dumps(index))
    assert len(index) == len(records) == 13
    for i, (tar, sample) in enumerate(records):
        found = index.sample_range(i)
        assert (found.tar, found.key) == (tar, sample.key)
        assert (index.key(i), index.labels[i]) == (sample.key, sample.label)
        assert index.sizes[i].tolist() == [sample.num_frames, sample.height, sample.width]
        assert [m._asdict() for m in found.members] == [
            dataclasses.asdict(m) for m in sample.members if m.name.split(".")[0] in modalities
        ]
        data = counter_set.storage.read_range(tar, found.offset, found.size)
        assert set(split_members(found, data)) == {f"{m}.mp4" for m in modalities}
        assert found.size <= sample.size
    assert index.range_bytes().tolist() == [index.sample_range(i).size for i in range(len(index))]
    assert index.class_counts().tolist() == np.bincount([s.label for _, s in records], minlength=3).tolist()


def test_what_is_not_there_is_named(counter_set) -> None:
    with pytest.raises(ManifestError, match=r"no samples in split 'test', only \{'train': 13, 'val': 5\}"):
        load_index(counter_set.storage, counter_set.manifest, "test", ("rgb",))
    without = dataclasses.replace(counter_set.manifest, modalities=("rgb",))
    with pytest.raises(ManifestError, match="stores rgb; asked for rgb, flow"):
        load_index(counter_set.storage, without, "train", ("rgb", "flow"))
    fewer = dataclasses.replace(counter_set.manifest, classes=("a", "b"))
    with pytest.raises(ManifestError, match=r"label: expected 0 to 1, found 2"):
        load_index(counter_set.storage, fewer, "train", ("rgb",))
