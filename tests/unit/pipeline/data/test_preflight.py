"""Preflight refuses what cannot work, and its numbers are those of a real epoch."""

from __future__ import annotations

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data import preflight as module
from pipeline.data.fetch.cache import DiskCache
from pipeline.data.preflight import DataPlan, check_data
from pipeline.dataset.manifest import read_records
from pipeline.errors import ConfigError, ManifestError, StorageError
from pipeline.storage import LocalStorage

CLIP = ClipConfig(num_frames=4, crop=32)


def preflight(
    stored,
    data: DataConfig,
    clip: ClipConfig = CLIP,
    *,
    modalities: tuple[str, ...] = ("rgb", "flow"),
    storage=None,
    **changes,
) -> DataPlan:
    manifest = dataclasses.replace(stored.manifest, **changes)
    return check_data(storage or stored.storage, manifest, data=data, clip=clip, modalities=modalities, world_size=2)


def test_the_plan_counts_samples_and_steps(counter_set) -> None:
    plan = preflight(counter_set, DataConfig(batch_size=4))
    assert (plan.samples, plan.requests, plan.steps, plan.rank_batch) == (
        {"train": 13, "val": 5},
        {"train": 13, "val": 5},
        4,
        2,
    )
    no_val = DataConfig(batch_size=4, val_split="", manifest_digest=counter_set.manifest.digest)
    plan = preflight(counter_set, no_val)
    assert (plan.samples, plan.steps, plan.cache_share) == ({"train": 13}, 4, 0.0)


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "diff"), ("rgb", "flow", "diff")])
def test_requests_and_bytes_are_those_of_an_epoch(counter_set, loader, modalities) -> None:
    plan = preflight(counter_set, DataConfig(batch_size=4), modalities=modalities)
    for split in ("train", "val"):
        with loader(counter_set, split, modalities=modalities, clip=ClipConfig(num_frames=2, crop=16)) as part:
            assert sum(sum(bool(key) for key in batch.keys) for batch in part.iter_epoch(0)) == plan.samples[split]
            assert part.metrics()["requests"] == plan.requests[split]
            assert part.metrics()["bytes"] == plan.bytes[split]


def test_the_memory_of_batches_is_that_of_their_tensors(counter_set, loader) -> None:
    clip = ClipConfig(num_frames=3, crop=16, stack=2)
    data = DataConfig(batch_size=4, prefetch=3)
    plan = check_data(
        counter_set.storage,
        counter_set.manifest,
        data=data,
        clip=clip,
        modalities=("rgb", "flow", "diff"),
        world_size=1,
    )
    with loader(counter_set, clip=clip, modalities=("rgb", "flow", "diff")) as part:
        batch = next(part.iter_epoch(0))
    assert plan.batch_bytes == (3 + 2) * sum(x.nbytes for x in batch.inputs.values())


def test_the_summary_is_two_lines_for_a_person(counter_set, tmp_path: Path) -> None:
    data = DataConfig(batch_size=4, cache_dir=str(tmp_path / "new"), cache_gb=1e-6)
    first, second = preflight(counter_set, data).summary()
    total = sum(s.size for r in read_records(counter_set.storage, counter_set.manifest, "train") for s in r.samples)
    assert first.startswith("an epoch: train 13 samples (13 GETs, ")
    assert first.endswith("; 4 steps")
    assert "fit into each node's cache" in second
    assert "2 samples a step" in second
    assert total > 0
    assert not (tmp_path / "new").exists(), "looking changes nothing"


def test_videos_shorter_than_a_clip_are_counted_for_each_split(counter_set) -> None:
    clip = ClipConfig(num_frames=10, stride=2, crop=32)  # covers 20 frames; the set's videos have 18 to 22
    plan = preflight(counter_set, DataConfig(batch_size=4), clip)
    short = {
        split: sum(
            s.num_frames < 20 for r in read_records(counter_set.storage, counter_set.manifest, split) for s in r.samples
        )
        for split in ("train", "val")
    }
    assert [line.split(" are shorter than the 20 frames that")[0] for line in plan.warnings] == [
        f"{short['train']} of 13 videos in split 'train'",
        f"{short['val']} of 5 videos in split 'val'",
    ]
    assert 0 < short["train"] < 13
    assert preflight(counter_set, DataConfig(batch_size=4), ClipConfig(num_frames=4, crop=32)).warnings == ()
    faster = preflight(counter_set, DataConfig(batch_size=4), clip, parameters={"fps": 10.0}).warnings
    assert "the 20 frames at 10 fps that" in faster[0]


def test_preflight_refuses_what_cannot_work_and_names_the_fix(counter_set, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cases = [
        (ConfigError, r"data\.batch_size = 5.*use 4 or 6", DataConfig(batch_size=5), {}),
        (ConfigError, r"data\.manifest_digest = 'beef'", DataConfig(batch_size=4, manifest_digest="beef"), {}),
        (ConfigError, r"data\.val_split = 'valid'.*train, val", DataConfig(batch_size=4, val_split="valid"), {}),
        (ConfigError, r"data\.train_split = 'tr'", DataConfig(batch_size=4, train_split="tr"), {}),
        (
            ConfigError,
            r"data\.cache_dir = .*file'.*not a folder",
            DataConfig(batch_size=4, cache_dir=str(tmp_path / "file")),
            {},
        ),
        (
            ConfigError,
            r"clip\.crop = 112.*stored 48 px.*at most 84",
            DataConfig(batch_size=4),
            {"clip": ClipConfig(crop=112)},
        ),
        (
            ManifestError,
            "1 of 4 classes have no sample in split 'train': x",
            DataConfig(batch_size=4),
            {"classes": ("a", "b", "c", "x")},
        ),
        (ManifestError, "asked for rgb, pose", DataConfig(batch_size=4), {"modalities": ("rgb", "pose")}),
    ]
    for kind, message, data, changes in cases:
        with pytest.raises(kind, match=message):
            preflight(counter_set, data, **changes)
    assert preflight(counter_set, DataConfig(batch_size=4), ClipConfig(crop=84))
    for change in ({"cache_dir": "relative"}, {"cache_gb": 0}, {"fetch_threads": 65}, {"fetch_buffer_mb": 0}):
        with pytest.raises(ConfigError, match=rf"data\.{next(iter(change))} = "):
            DataConfig(**change)  # type: ignore[arg-type]


def test_a_disk_without_room_for_the_cache_is_refused(
    counter_set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    data = DataConfig(batch_size=4, cache_dir=str(tmp_path))
    needed = sum(preflight(counter_set, data).bytes.values())
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**12, 10**12, needed - 1))
    with pytest.raises(ConfigError, match=rf"data\.cache_gb = 50\.0: {tmp_path} has room for"):
        preflight(counter_set, data)
    assert preflight(counter_set, dataclasses.replace(data, cache_gb=(needed - 1) / 1e9)).cache_share < 1
    DiskCache(tmp_path, 10**9, counter_set.manifest.digest).put("train/a.tar", 0, 1, b"x")
    assert preflight(counter_set, data).cache_share == 1, "what is cached already counts as room"


class Flipping(LocalStorage):
    """Samples of some tars arrive with a byte changed."""

    bad: frozenset[str] = frozenset()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        data = bytearray(super().read_range(path, offset, length))
        if path in self.bad:
            data[-1] ^= 1  # in the middle there may be a tar header, which is never read
        return bytes(data)


def test_a_sample_of_each_split_is_read_and_checked(
    counter_set, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Flipping(str(counter_set.root))
    storage.bad = frozenset({"train/shard-000001.tar"})
    preflight(counter_set, DataConfig(batch_size=4), storage=storage)
    assert sum("train/shard-000001.tar" in r.getMessage() for r in caplog.records) == 1, (
        "one damaged sample is what a run survives"
    )
    storage.bad = frozenset({"val/shard-000000.tar", "val/shard-000001.tar"})
    with pytest.raises(
        ManifestError, match=r"not what their records say: clip-\S+ in val/shard-000000\.tar .*val/shard-000001\.tar"
    ):
        preflight(counter_set, DataConfig(batch_size=4), storage=storage)
    root = tmp_path / "copy"
    shutil.copytree(counter_set.root, root)
    (root / "val" / "shard-000000.tar").unlink()
    with pytest.raises(ManifestError, match=r"sample clip-\S+ in .*val/shard-000000\.tar: .*does not exist"):
        preflight(counter_set, DataConfig(batch_size=4), storage=LocalStorage(str(root)))


def test_credentials_that_may_list_but_not_read_are_found(counter_set) -> None:
    class Refusing(LocalStorage):
        def read_range(self, path: str, offset: int, length: int) -> bytes:
            raise StorageError("access is denied (403)")

    with pytest.raises(StorageError, match=r"sample clip-\S+ in .*\.tar: access is denied"):
        preflight(counter_set, DataConfig(batch_size=4), storage=Refusing(str(counter_set.root)))
