"""Pictures as a data set: one frame each, read by every decoder, refused for clips of several frames."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import report as report_job
from jobs.preprocess import command
from jobs.verify import command as verify_job
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.preprocess import StoredConfig
from pipeline.data.loader import make_loader
from pipeline.data.preflight import check_data
from pipeline.dataset.manifest import Manifest, read_records
from pipeline.dataset.rules import record_problems
from pipeline.errors import ConfigError, ManifestError, UserError
from pipeline.storage import Storage, open_storage
from preprocessing.annotations import read_annotations
from preprocessing.shard.plan import plan_shards
from preprocessing.sources import open_sources
from tests.support.picture_folders import CLASSES, draw_pictures
from tests.support.preprocess_here import build_here, config

BACKENDS = ["ffmpeg", "reference"]
if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
    BACKENDS.append("dali")


def stored(root: Path, tmp_path: Path, **changes) -> Manifest:
    options = {"format": "pictures", "source": str(root), "annotations": "", "samples_per_shard": 5, **changes}
    made = command.preprocess(config(root, tmp_path, **options))
    assert made is not None
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "imagenet", {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "imagenet", {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def made(drawn: Path) -> Manifest:
    """Of ``drawn``, stored in ``drawn/../out``; tests leave both as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "build_all", build_here)
        return stored(drawn, drawn.parent)


@pytest.fixture(scope="module")
def place(drawn: Path) -> Storage:
    return open_storage(f"file://{drawn.parent}/out")


def data_config(**fields) -> DataConfig:
    return DataConfig(batch_size=4, fetch_threads=2, decode_threads=1, **fields)


def test_each_picture_is_a_sample_of_one_frame(
    made: Manifest, drawn: Path, place: Storage, tmp_path: Path, in_this_process: list
) -> None:
    assert (made.classes, made.modalities, made.split_sizes()) == (CLASSES, ("rgb",), {"train": 12, "val": 6})
    samples = {s.source: s for split in ("train", "val") for r in read_records(place, made, split) for s in r.samples}
    files = {str(path.relative_to(drawn)): path for path in drawn.rglob("*.*")}
    assert samples.keys() == files.keys()
    for name, sample in samples.items():
        width, height = Image.open(files[name]).size
        assert (sample.num_frames, sample.fps, sample.decoded_frames) == (1, 1.0, 1)
        assert (sample.source_width, sample.source_height, sample.sar) == (width, height, "1:1")
        assert (sample.height, sample.width) == (32, 2 * round(32 * width / height / 2))
        assert sample.label == CLASSES.index(name.split("/")[1])
    again = stored(drawn, tmp_path)
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in made.shards]
    assert again.digest == made.digest


def test_verification_and_report_read_them(made: Manifest, place: Storage, tmp_path: Path, capsys) -> None:
    assert verify_job.main([place.uri]) == 0
    assert "18 samples" in capsys.readouterr().out
    assert report_job.main([place.uri, "--out", str(tmp_path / "r.html")]) == 0
    assert CLASSES[0] in (tmp_path / "r.html").read_text()
    record = read_records(place, made, "val")[0]
    sample = record.samples[0]
    for frames, modalities in ((0, ("rgb",)), (1, ("rgb", "flow"))):
        wrong = dataclasses.replace(record, samples=(dataclasses.replace(sample, num_frames=frames),))
        details = [p.detail for p in record_problems(wrong, 3, modalities) if "frames of" in p.detail]
        assert details
        assert details[0].startswith(f"{frames} frames of {sample.width}x32 at 1.0 frames/s are no video")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_decoder_gives_the_picture(made: Manifest, drawn: Path, place: Storage, backend: str) -> None:
    """The centre square of each, normalised as ImageNet's, close to Pillow's; several views are one and the same."""
    clip = ClipConfig(num_frames=1, crop=32, resize=32)
    names = {s.key: s.source for r in read_records(place, made, "val") for s in r.samples}
    options = {"data": data_config(decoder=backend), "clip": clip, "modalities": ("rgb",), "seed": 0, "device": "cpu"}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = []
    with make_loader(place, made, "val", train=False, num_views=2, **options) as loader:
        for batch in loader.iter_epoch(0):
            clips = batch.inputs["rgb"]
            assert clips.shape[1:] == (1, 3, 32, 32)
            assert torch.equal(clips[::2], clips[1::2])
            for key, frame in zip(batch.keys[::2], clips[::2, 0], strict=True):
                if not key:  # fills the last batch
                    continue
                seen.append(key)
                picture = Image.open(drawn / names[key]).convert("RGB")
                left = (picture.width - picture.height) // 2
                square = picture.crop((left, 0, left + picture.height, picture.height)).resize(
                    (32, 32), Image.Resampling.BOX
                )
                shown = (frame.permute(1, 2, 0).numpy() * std + mean) * 255
                assert np.abs(shown - np.asarray(square)).mean() < 6
    assert sorted(seen) == sorted(names)
    with make_loader(place, made, "train", train=True, **options) as loader:
        counts = [sum(bool(key) for key in batch.keys) for batch in loader.iter_epoch(0)]
    assert sum(counts) == 12


def test_flow_of_a_picture_is_refused(root: Path, tmp_path: Path) -> None:
    both: list[tuple[Literal["rgb", "flow", "diff"], ...]] = [("rgb", "flow", "diff"), ("rgb", "diff")]
    for modalities in both:
        with pytest.raises(
            ConfigError, match=r"stored\.modalities = .*: a picture has no flow .*: give --stored\.modalities rgb"
        ):
            stored(root, tmp_path, stored=StoredConfig(short_side=32, modalities=modalities))
    with pytest.raises(ConfigError, match="the pictures format has no lists"):
        stored(root, tmp_path, annotations=str(root))


def test_clips_of_several_frames_are_refused_where_a_split_is_of_pictures(made: Manifest, place: Storage) -> None:
    def checked(frames: int, modalities: tuple[str, ...] = ("rgb",)) -> tuple[str, ...]:
        clip = ClipConfig(num_frames=frames, crop=32)
        options = {"data": data_config(), "clip": clip, "modalities": modalities, "world_size": 1}
        return check_data(place, made, **options).warnings

    assert checked(1) == ()
    with pytest.raises(
        ConfigError,
        match=r"clip\.num_frames = 16: all 12 samples of split 'train' are pictures, .*--model.num-steps 1"
        " --clip.num-frames 1",
    ):
        checked(16)
    with pytest.raises(ConfigError, match=r"clip\.num_frames = 1: all 12"):
        checked(1, ("diff-online",))
    with pytest.raises(ManifestError, match="flow"):
        checked(1, ("rgb", "flow"))


def test_what_is_left_out_and_what_is_rejected(
    root: Path, tmp_path: Path, in_this_process: list, caplog: pytest.LogCaptureFixture
) -> None:
    train = root / "train" / CLASSES[0]
    (train / "clip.mp4").write_bytes(b"video")
    (train / "README").write_text("about")
    (train / ".hidden.jpg").write_bytes(b"x")
    (train / "half.jpg").write_bytes((train / f"{CLASSES[0]}_0.JPEG").read_bytes()[:200])
    (root / "val" / "loose.JPEG").write_bytes(b"x")
    with caplog.at_level(logging.INFO):
        made = stored(root, tmp_path, max_rejects="1")
    assert (made.num_inputs, made.num_samples, made.num_rejects) == (19, 18, 1)
    assert "left out 2 files that are no pictures: 1 .mp4, 1 readme" in caplog.text
    assert "left out 1 picture outside class folders" in caplog.text
    with pytest.raises(UserError, match=r"lists no video|has no class folder|no sample of the train split"):
        read_annotations("pictures", open_sources(str(root / "train" / CLASSES[1])))


def test_pictures_stay_side_files_of_videos_and_fingerprints_of_videos_stay(root: Path) -> None:
    (root / "train" / CLASSES[0] / "clip.mp4").write_bytes(b"video")
    for name in CLASSES[1:]:
        (root / "train" / name / "clip.mp4").write_bytes(b"video")
    found = read_annotations("folder", open_sources(str(root)))
    assert [source.path for source in found.sources] == [f"train/{name}/clip.mp4" for name in CLASSES]
    assert not any(source.picture for source in found.sources)
    # sha256 of json.dumps([[name, label, class, None, None, 5], ...]) over the plan's order, which names' hashes decide
    (plan,) = plan_shards(found, dict.fromkeys((s.path for s in found.sources), 5), 64)
    rows = ", ".join(
        f'["{s.name}", {s.label}, "{CLASSES[s.label]}", null, null, 5]' for s in (p.source for p in plan.inputs)
    )
    assert plan.sources_sha256 == hashlib.sha256(f"[{rows}]".encode()).hexdigest()
    still = dataclasses.replace(found, sources=tuple(dataclasses.replace(s, picture=True) for s in found.sources))
    (other,) = plan_shards(still, dict.fromkeys((s.path for s in found.sources), 5), 64)
    assert other.sources_sha256 != plan.sources_sha256
