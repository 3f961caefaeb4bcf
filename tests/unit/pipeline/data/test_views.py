"""Whole loaders: three crops, differences made online, memory order; all backends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.decoding.factory import backend as backend_of
from pipeline.data.decoding.reference import decode_frames, prepare_clip
from pipeline.data.index import load_index
from pipeline.data.sampling.clips import sample_plans
from pipeline.dataset.sample import stored_modalities
from pipeline.errors import ManifestError


def test_three_crops_of_each_view_are_contiguous(loader, texture_set, backend) -> None:
    clip = ClipConfig(num_frames=3, stack=2, crop=40, norm="caffe", flow_std=1.0)
    with loader(texture_set, "val", batch=2, backend=backend, clip=clip, num_views=2, num_crops=3) as part:
        batches = list(part.iter_epoch(0))
        index = part.index
    assert [len(b) for b in batches] == [12, 12]
    assert batches[1].keys[6:] == ("",) * 6
    for n, batch in enumerate(batches):
        for sample in range(2 - n):
            i = 2 * n + sample
            assert set(batch.keys[6 * sample : 6 * sample + 6]) == {index.key(i)}
            num_frames, height, width = (int(x) for x in index.sizes[i])
            codes = decode_frames(texture_set.stored_member(index.key(i), "flow"), "flow", range(num_frames - 1))
            plans = sample_plans(
                "",
                num_frames,
                height,
                width,
                clip,
                ("rgb", "flow"),
                train=False,
                seed=0,
                epoch=0,
                num_views=2,
                num_crops=3,
            )
            assert len({(p.rgb_frames, p.box) for p in plans}) == 6
            for row, plan in enumerate(plans):
                wanted = prepare_clip({"flow": codes}, plan, clip)["flow"][..., 2:-2, 2:-2]
                found = batch.inputs["flow"][6 * sample + row].numpy()[..., 2:-2, 2:-2]
                np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_training_takes_one_clip_whatever_the_crops(loader, counter_set) -> None:
    with loader(counter_set, batch=4, num_views=4, num_crops=3) as part:
        assert len(next(iter(part.iter_epoch(0)))) == 4


def test_crops_are_one_or_three(loader, counter_set) -> None:
    with pytest.raises(ValueError, match="num_crops is 2: must be 1 or 3"):
        loader(counter_set, num_crops=2)


def test_diff_online_needs_rgb_alone(loader, stored_set_of, pictures, tmp_path, backend) -> None:
    """A data set without stored differences serves a model of rgb and diff-online; only rgb is fetched."""
    lean = stored_set_of(tmp_path, {"train": [4]}, pictures["texture"], modalities=("rgb", "flow"))
    clip = ClipConfig(num_frames=3, stride=2, stack=2, crop=32)
    with loader(lean, batch=4, backend=backend, modalities=("rgb", "diff-online"), clip=clip) as part:
        (batch,) = part.iter_epoch(0)
        index = part.index
        fetched = part.metrics()["bytes"]
    assert {m: tuple(x.shape) for m, x in batch.inputs.items()} == {
        "rgb": (4, 3, 3, 32, 32),
        "diff-online": (4, 3, 6, 32, 32),
    }
    assert fetched == sum(len(lean.stored_member(index.key(i), "rgb")) for i in range(4))
    for row, key in enumerate(batch.keys):
        (i,) = [n for n in range(4) if index.key(n) == key]
        num_frames, height, width = (int(x) for x in index.sizes[i])
        video = lean.stored_member(key, "rgb")
        (plan,) = sample_plans(key, num_frames, height, width, clip, ("rgb", "flow"), train=True, seed=11, epoch=0)
        wanted = prepare_clip(
            {"rgb": decode_frames(video, "rgb", range(num_frames))}, plan, clip, modalities=("rgb", "diff-online")
        )
        for m, expected in wanted.items():
            off = np.abs(batch.inputs[m][row].numpy() - expected)[..., 2:-2, 2:-2] * 255 * 0.225
            assert off.mean() < 0.6, f"{m}: {off.mean():.3f} levels"
    with pytest.raises(ManifestError, match="stores rgb, flow; asked for rgb, diff"):
        load_index(lean.storage, lean.manifest, "train", ("rgb", "diff"))


def test_diff_online_reads_the_stored_rgb() -> None:
    assert stored_modalities(("rgb", "flow", "diff")) == ("rgb", "flow", "diff")
    assert stored_modalities(("diff-online", "rgb")) == ("rgb",)
    assert stored_modalities(("flow", "diff-online")) == ("flow", "rgb")


@pytest.mark.parametrize("stack", [1, 2])
def test_channels_last_holds_for_every_row(loader, counter_set, damaged_storage, backend, stack: int) -> None:
    clip = ClipConfig(num_frames=3, stack=stack, crop=16)
    options = {"batch": 5, "backend": backend, "clip": clip, "storage": damaged_storage, "data": {"damaged_budget": 1}}
    with loader(counter_set, **options) as usual, loader(counter_set, channels_last=True, **options) as last:
        for a, b in zip(usual.iter_epoch(0), last.iter_epoch(0), strict=True):
            for m in a.inputs:
                assert torch.equal(a.inputs[m], b.inputs[m])
                frames = b.inputs[m].flatten(0, 1)
                assert frames.data_ptr() == b.inputs[m].data_ptr()
                assert frames.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def damaged_storage(counter_set):
    """One sample's bytes are wrong, so batches hold black rows beside good ones."""
    from pipeline.storage import LocalStorage

    class Damaged(LocalStorage):
        def read_range(self, path: str, offset: int, length: int) -> bytes:
            data = super().read_range(path, offset, length)
            return bytes(length) if path == "train/shard-000000.tar" and offset == first else data

    index = load_index(counter_set.storage, counter_set.manifest, "train", ("rgb", "flow"))
    first = index.sample_range(0).offset
    return Damaged(str(counter_set.root))


def test_the_default_backend_follows_the_device() -> None:
    data = DataConfig()
    assert (backend_of(data, "cpu"), backend_of(data, "gpu")) == ("ffmpeg", "dali")
    for name in ("dali", "ffmpeg", "reference"):
        assert backend_of(dataclasses.replace(data, decoder=name), "cpu") == name
