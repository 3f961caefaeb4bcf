"""Small stored data sets: real VP9 members in real shards, whose pictures say which sample and frame they are."""

from __future__ import annotations

import dataclasses
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.loader import Loader, make_loader
from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of, read_records
from pipeline.dataset.sample import extension, sample_key
from pipeline.dataset.shards import SampleRecord, ShardRecord, file_sha256, scan_tar
from pipeline.storage import LocalStorage
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.tars import write_tar

CODEC = VideoCodec()
CLIP = ClipConfig(num_frames=3, stack=2, crop=16, norm="caffe", flow_std=1.0)
Videos = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredSet:
    """A data set on disk and the pictures that were encoded into it."""

    root: Path
    storage: LocalStorage
    manifest: Manifest
    videos: dict[str, Videos]

    def stored_member(self, key: str, modality: str) -> bytes:
        """A sample's video of a modality as it is stored, found through the records."""
        for split in self.manifest.split_sizes():
            for record in read_records(self.storage, self.manifest, split):
                for sample in record.samples:
                    if sample.key == key:
                        member = sample.member(extension(modality))
                        return self.storage.read_range(f"{record.path}.tar", member.offset, member.size)
        raise KeyError(key)


def counter_videos(num_frames: int, height: int, width: int, seed: int) -> Videos:
    """Flat pictures whose level is the frame's number: rgb 20 + 8 t, u 40 + 6 t, v 220 - 6 t, diff 60 + 5 t."""
    del seed
    t = np.arange(num_frames)
    rgb = np.broadcast_to((20 + 8 * t)[:, None, None, None], (num_frames, height, width, 3))
    u, v = (np.broadcast_to(x[:-1, None, None], (num_frames - 1, height, width)) for x in (40 + 6 * t, 220 - 6 * t))
    diff = np.broadcast_to((60 + 5 * t)[:-1, None, None, None], (num_frames - 1, height, width, 3))
    return {
        "rgb": rgb.astype(np.uint8),
        "flow": np.concatenate([u, v], 1).astype(np.uint8),
        "diff": diff.astype(np.uint8),
    }


def texture_videos(num_frames: int, height: int, width: int, seed: int) -> Videos:
    """Smooth asymmetric pictures that move by 2 px a frame."""
    rng = np.random.default_rng(seed)

    def moving(channels: int) -> np.ndarray:
        small = rng.integers(30, 226, (5, 6, channels), dtype=np.uint8)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
        return np.stack([np.roll(picture, 2 * t, 1) for t in range(num_frames)])

    flow = moving(2)[1:]
    return {"rgb": moving(3), "flow": np.concatenate([flow[..., 0], flow[..., 1]], 1), "diff": moving(3)[1:]}


def encode(videos: Videos) -> dict[str, bytes]:
    """Members by extension."""
    coded = {m: encode_gray(v, 25.0, CODEC) if m == "flow" else encode_rgb(v, 25.0, CODEC) for m, v in videos.items()}
    return {**{extension(m): data for m, data in coded.items()}, "json": b"{}"}


def store(
    root: Path,
    splits: dict[str, list[int]],
    pictures: Callable[[int, int, int, int], Videos],
    *,
    modalities: tuple[str, ...] = ("rgb", "flow", "diff"),
    classes: int = 3,
    size: tuple[int, int] = (48, 64),
    alter: Callable[[str, dict[str, bytes]], dict[str, bytes]] = lambda key, members: members,
) -> StoredSet:
    """Write a data set: ``splits`` gives the samples of each shard; even samples are portrait-swapped to vary the
    size.
    """
    storage, entries, kept = LocalStorage(str(root)), [], {}
    number = 0
    for split, shards in splits.items():
        for shard, count in enumerate(shards):
            samples, facts = [], {}
            for _ in range(count):
                source = f"{split}/clip {number}.mp4"
                key = sample_key(source)
                height, width = size if number % 2 else (size[0], size[0] + 8)
                num_frames = 18 + number % 5
                videos = pictures(num_frames, height, width, number)
                kept[key] = {m: videos[m] for m in modalities}
                samples.append((key, alter(key, encode(kept[key]))))
                facts[key] = (number % classes, source, num_frames, width, height)
                number += 1
            tar = root / split / f"shard-{shard:06d}.tar"
            tar.parent.mkdir(parents=True, exist_ok=True)
            write_tar(tar, samples)
            records = [
                SampleRecord(
                    key=key,
                    label=facts[key][0],
                    source=facts[key][1],
                    num_frames=facts[key][2],
                    fps=25.0,
                    width=facts[key][3],
                    height=facts[key][4],
                    offset=offset,
                    size=length,
                    members=members,
                )
                for key, offset, length, members in scan_tar(tar)
            ]
            record = ShardRecord(
                split=split,
                name=tar.stem,
                parameter_hash="p",
                sources_sha256="s",
                size=tar.stat().st_size,
                sha256=file_sha256(tar),
                samples=tuple(records),
                rejects=(),
            )
            storage.write(f"{record.path}.json", record.to_json())
            entries.append(entry_of(record))
    manifest = Manifest(
        dataset="small",
        classes=tuple(f"class{c}" for c in range(classes)),
        modalities=modalities,
        parameters={"short_side": size[0], "flow_bound": 20.0},
        parameter_hash="p",
        code_version="0",
        shards=tuple(entries),
    )
    storage.write(MANIFEST, manifest.to_json())
    return StoredSet(root, storage, manifest, kept)


try:
    HAVE_DALI = importlib.util.find_spec("nvidia.dali") is not None
except ModuleNotFoundError:  # no package of NVIDIA's at all
    HAVE_DALI = False


@pytest.fixture(
    params=[
        pytest.param("dali", marks=pytest.mark.skipif(not HAVE_DALI, reason="DALI is not installed")),
        "ffmpeg",
        "reference",
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def open_loader(
    stored: StoredSet, split: str = "train", *, batch: int = 4, backend: str = "reference", **options: Any
) -> Loader:
    """A loader of a small set: rgb and flow, seed 11, budget 1, unless ``options`` say otherwise."""
    data = {"damaged_budget": 1, "fetch_threads": 2, **options.pop("data", {})}
    config = DataConfig(batch_size=batch, decoder=backend, decode_threads=1, **data)  # type: ignore[arg-type]
    storage, clip = options.pop("storage", stored.storage), options.pop("clip", CLIP)
    arguments = {"modalities": ("rgb", "flow"), "train": split == "train", "seed": 11, "device": "cpu", **options}
    return make_loader(storage, stored.manifest, split, data=config, clip=clip, **arguments)


@pytest.fixture(scope="session")
def loader() -> Callable[..., Loader]:
    return open_loader


@pytest.fixture(scope="session")
def ours() -> Callable[[], list[str]]:
    """Names of the loaders' threads that are alive."""
    return lambda: [t.name for t in threading.enumerate() if t.name.startswith(("fetch-", "loader-", "decode"))]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def counter_set(tmp_path_factory: pytest.TempPathFactory) -> StoredSet:
    return store(tmp_path_factory.mktemp("counter"), {"train": [5, 4, 4], "val": [3, 2]}, counter_videos)


@pytest.fixture(scope="session")
def texture_set(tmp_path_factory: pytest.TempPathFactory) -> StoredSet:
    return store(tmp_path_factory.mktemp("texture"), {"train": [4, 3], "val": [3]}, texture_videos)


@pytest.fixture(scope="session")
def stored_set_of() -> Callable[..., StoredSet]:
    """``store`` and its pictures for tests that need a data set of their own."""
    return store


@pytest.fixture(scope="session")
def pictures() -> dict[str, Callable[[int, int, int, int], Videos]]:
    return {"counter": counter_videos, "texture": texture_videos}
