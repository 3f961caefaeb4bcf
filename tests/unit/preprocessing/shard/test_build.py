"""One shard from end to end on local files, read back with other tools."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset

from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import dequantise_flow, sample_key
from pipeline.dataset.shards import split_members
from pipeline.errors import ReciprocalError, RejectedSource, StorageError
from pipeline.storage import LocalStorage
from preprocessing.annotations import Annotations, Source
from preprocessing.flow.base import FlowEngine, to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.media.decode import decode_video
from preprocessing.shard import clip, motion
from preprocessing.shard.build import ShardSpec, build_shard, committed_record
from preprocessing.shard.clip import Sample, check_video
from preprocessing.shard.plan import PlannedSource, ShardPlan, plan_shards
from preprocessing.shard.stages import make_samples
from preprocessing.shard.work import StageTimes
from preprocessing.sources import open_sources
from preprocessing.synthetic.generate import SyntheticConfig, draw_clip, write_h264

PLAIN = StoredConfig(short_side=32, modalities=("rgb", "diff"))
CLASSES = ("stripes_rise", "stripes_sink")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good clips, one file that is no video; ``B/gone.mp4`` is only listed."""
    root = tmp_path_factory.mktemp("videos")
    config = SyntheticConfig(out=root, min_frames=8, max_frames=9)
    for name, label in (("A/one.mp4", 0), ("B/two.mp4", 1)):
        (root / name).parent.mkdir()
        write_h264(root / name, *draw_clip(config, label, "train", 0))
    (root / "A/page.mp4").write_bytes(b"<html>not found</html>")
    return root


@pytest.fixture
def plan(videos: Path) -> ShardPlan:
    rows = (("A/one.mp4", 0), ("A/page.mp4", 0), ("B/two.mp4", 1), ("B/gone.mp4", 1))
    return planned(tuple(Source(path=p, label=n, split="train") for p, n in rows), videos)


def planned(sources: tuple[Source, ...], videos: Path) -> ShardPlan:
    """The one shard of these sources."""
    (plan,) = plan_shards(
        Annotations(classes=CLASSES, sources=sources), open_sources(str(videos)).sizes({s.path for s in sources}), 8
    )
    return plan


class Watched(LocalStorage):
    """Local storage that notes the order of writes and can fail at one of them."""

    def __init__(self, root: Path, fail_at: str = "") -> None:
        super().__init__(str(root))
        self.written: list[str] = []
        self.fail_at = fail_at

    def _replace(self, path: str, fill) -> None:
        if self.fail_at and path.endswith(self.fail_at):
            raise StorageError(f"{path}: injected")
        super()._replace(path, fill)
        self.written.append(path)


def run(plan: ShardPlan, videos: Path, storage: LocalStorage, stored: StoredConfig = PLAIN, **kwargs):
    return build_shard(
        plan, store=open_sources(str(videos)), spec=ShardSpec.of(CLASSES, stored), storage=storage, **kwargs
    )


def make_one(
    source: Source, videos: Path, stored: StoredConfig, folder: Path
) -> tuple[Sample, dict[str, bytes]] | RejectedSource:
    """One source's sample and its members' bytes, or its reject."""
    ((_, result),) = (
        (source, made if isinstance(made, RejectedSource) else (made, bytes_of(made)))
        for source, made in generate_samples([source], videos, stored, folder)
    )
    assert not list(folder.iterdir())
    return result


def bytes_of(sample: Sample) -> dict[str, bytes]:
    return {name: m if isinstance(m, bytes) else m.read_bytes() for name, m in sample.members.items()}


def generate_samples(sources: Sequence[Source], videos: Path, stored: StoredConfig, folder: Path):
    inputs = [PlannedSource(source=s, key=sample_key(s.name), num_bytes=1) for s in sources]
    return make_samples(inputs, open_sources(str(videos)), CLASSES, stored, folder, times=StageTimes())


def test_every_input_ends_as_sample_or_reject(plan, videos, tmp_path):
    storage = Watched(tmp_path / "out")
    record = run(plan, videos, storage)
    assert {s.source for s in record.samples} == {"A/one.mp4", "B/two.mp4"}
    assert {(r.source, r.label, r.reason) for r in record.rejects} == {
        ("A/page.mp4", 0, "not_video"),
        ("B/gone.mp4", 1, "missing"),
    }
    assert storage.written == ["train/shard-000000.tar", "train/shard-000000.idx", "train/shard-000000.json"]
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) == record


def test_the_tar_is_a_webdataset(plan, videos, tmp_path):
    record = run(plan, videos, Watched(tmp_path / "out"))
    tar = tmp_path / "out/train/shard-000000.tar"
    by_key = {s["__key__"]: s for s in webdataset.WebDataset(str(tar), shardshuffle=False)}
    assert set(by_key) == {s.key for s in record.samples}
    for sample in record.samples:
        found = by_key[sample.key]
        assert {k for k in found if not k.startswith("__")} == {"rgb.mp4", "diff.mp4", "json"}
        with tar.open("rb") as file:
            file.seek(sample.offset)
            members = split_members(sample, file.read(sample.size))  # one ranged read brings the sample
        assert all(found[name] == data for name, data in members.items())
        facts = json.loads(members["json"])
        assert (facts["class"], facts["label"], facts["num_frames"]) == (
            CLASSES[sample.label],
            sample.label,
            sample.num_frames,
        )
        decoded = decode_video(videos / sample.source, short_side=32).frames_rgb_THWC
        for name, count in (("rgb.mp4", len(decoded)), ("diff.mp4", len(decoded) - 1)):
            with av.open(io.BytesIO(members[name])) as container:
                frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
            assert frames.shape == (count, sample.height, sample.width, 3)
            truth = decoded if name == "rgb.mp4" else np.clip(np.diff(decoded.astype(int), axis=0), -127, 127) + 128
            assert (
                np.abs((frames - truth.astype(int)) @ [0.299, 0.587, 0.114]).mean() < 4
            )  # brightness: colour is stored at half the size
    index = (tmp_path / "out/train/shard-000000.idx").read_text().splitlines()
    assert index[0] == f"v1.2 {len(record.samples)}"
    with tarfile.open(tar) as archive:
        assert all(m.mtime == 0 for m in archive)


def test_stored_flow_is_the_flow_of_the_stored_size(videos, tmp_path):
    stored = StoredConfig(short_side=32, modalities=("rgb", "flow"), flow_bound=10.0)
    sample, members = make_one(Source(path="A/one.mp4", label=0, split="train"), videos, stored, tmp_path)
    flow = flow_engine("numba").flow(to_gray(decode_video(videos / "A/one.mp4", short_side=32).frames_rgb_THWC))
    with av.open(io.BytesIO(members["flow.mp4"])) as container:
        codes = np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])
    back = dequantise_flow(codes, 10.0)
    assert back.shape == flow.shape
    assert np.abs(back - np.clip(flow, -10, 10)).mean() < 0.12
    assert sample.record.flow_mean_px == pytest.approx(float(np.hypot(flow[:, 0], flow[:, 1]).mean()), abs=1e-4)
    assert sample.record.flow_saturation == pytest.approx(float((np.abs(flow) > 10).mean()), abs=1e-6)
    step = 20 / 255
    # Rounding by itself has a mean error of a quarter of a step.
    assert 0.15 * step < sample.record.flow_error_px < 0.35 * step


def members_by_key(records: list, root: Path) -> dict[str, dict[str, bytes]]:
    return {
        s.key: split_members(s, (root / f"{r.path}.tar").read_bytes()[s.offset : s.offset + s.size])
        for r in records
        for s in r.samples
    }


def test_same_clip_same_bits_in_another_shard_batch_and_number_of_threads(videos, tmp_path, monkeypatch):
    """Alone in a shard or with others, flow in blocks of 3 or 16 pairs, one shard at a time or three at once."""
    for number in range(3):
        write_h264(
            videos / f"A/more{number}.mp4",
            *draw_clip(SyntheticConfig(out=videos, min_frames=9, max_frames=12), 0, "train", number + 1),
        )
    names = ("A/one.mp4", "B/two.mp4", *(f"A/more{number}.mp4" for number in range(3)))
    sources = tuple(Source(path=n, label=int(n[0] == "B"), split="train") for n in names)
    stored = StoredConfig(short_side=32, modalities=("rgb", "flow", "diff"))
    sizes, store = open_sources(str(videos)).sizes(set(names)), open_sources(str(videos))

    def built(root: Path, samples_per_shard: int, threads: int) -> dict[str, dict[str, bytes]]:
        spec = ShardSpec.of(CLASSES, stored)
        plans = plan_shards(Annotations(classes=CLASSES, sources=sources), sizes, samples_per_shard)
        with ThreadPoolExecutor(threads) as pool:
            records = list(
                pool.map(lambda p: build_shard(p, store=store, spec=spec, storage=LocalStorage(str(root))), plans)
            )
        assert len(records) == -(-len(names) // samples_per_shard)
        return members_by_key(records, root)

    first = built(tmp_path / "first", 5, 1)
    monkeypatch.setattr(FlowEngine, "block_frames", 3)
    second = built(tmp_path / "second", 2, 3)
    assert first.keys() == second.keys()
    assert len(first) == 5
    for key in first:
        assert first[key] == second[key], key


def test_same_inputs_same_bytes(plan, videos, tmp_path):
    stored = StoredConfig(short_side=32)
    outputs = []
    for name in ("a", "b"):
        run(plan, videos, Watched(tmp_path / name), stored)
        outputs.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).rglob("shard*"))})
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 3


@pytest.mark.parametrize("ending", [".tar", ".idx", ".json"])
def test_no_record_no_shard(plan, videos, tmp_path, ending):
    with pytest.raises(StorageError, match="injected"):
        run(plan, videos, Watched(tmp_path / "out", fail_at=ending))
    storage = Watched(tmp_path / "out")
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) is None
    # A second attempt repairs it.
    assert run(plan, videos, storage) == committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage)


def test_a_record_counts_only_with_its_parameters_sources_and_tar(plan, videos, tmp_path):
    storage = Watched(tmp_path / "out")
    run(plan, videos, storage)
    assert (
        committed_record(
            plan, ShardSpec.of(CLASSES, StoredConfig(short_side=32, modalities=("rgb", "diff"), crf=30)), storage
        )
        is None
    )
    other = dataclasses.replace(plan, sources_sha256="0" * 64)
    assert committed_record(other, ShardSpec.of(CLASSES, PLAIN), storage) is None
    tar = tmp_path / "out/train/shard-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) is None
    tar.write_bytes(whole)
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) is not None
    (tmp_path / "out/train/shard-000000.json").write_text("{}")
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) is None


def test_a_source_that_kills_the_decoder_is_rejected_unread(plan, videos, tmp_path):
    record = run(plan, videos, Watched(tmp_path / "out"), crashed={"A/one.mp4": "WorkerCrashedError"})
    assert ("A/one.mp4", "crashed") in {(r.source, r.reason) for r in record.rejects}
    assert [s.source for s in record.samples] == ["B/two.mp4"]


def test_reading_back_finds_a_video_that_is_not_what_the_record_says(plan, videos, tmp_path, monkeypatch):
    class Forgetful(clip.VideoWriter):
        def write(self, pictures):
            super().write(pictures[:-1])

    monkeypatch.setattr(clip, "VideoWriter", Forgetful)
    storage = Watched(tmp_path / "out")
    with pytest.raises(ReciprocalError, match=r"train/shard-000000: [AB]/\w+.mp4: rgb.mp4 decodes to .*instead of"):
        run(plan, videos, storage)
    assert storage.written == []


def test_a_fault_behind_the_decoder_names_the_source(plan, videos, tmp_path, monkeypatch):
    def broken(frames):
        raise ValueError("injected")

    monkeypatch.setattr(motion, "quantise_diff", broken)
    with pytest.raises(ReciprocalError, match=r"train/shard-000000: [AB]/\w+.mp4: ValueError: injected"):
        run(plan, videos, Watched(tmp_path / "out"))


@pytest.mark.parametrize(
    "where", [(clip.VideoWriter, "write"), (clip.VideoWriter, "close")], ids=["while encoding", "at the end"]
)
def test_a_full_disk_is_the_storages_fault_and_not_the_videos(plan, videos, tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*where, full)
    storage = Watched(tmp_path / "out")
    with pytest.raises(StorageError, match=r"no space left in the folder for temporary files.*TMPDIR"):
        run(plan, videos, storage)
    assert storage.written == []


def test_blocks_do_not_show(videos, tmp_path, monkeypatch):
    source, stored = Source(path="A/one.mp4", label=0, split="train"), StoredConfig(short_side=32)
    whole = make_one(source, videos, stored, tmp_path)
    for size in (2, 3, 5):
        monkeypatch.setattr(FlowEngine, "block_frames", size)
        cut = make_one(source, videos, stored, tmp_path)
        assert (cut[0].record, cut[1]) == (whole[0].record, whole[1]), f"blocks of {size} frames"


def test_a_shard_of_only_rejects_has_a_record_and_no_tar(videos, tmp_path):
    plan = planned((Source(path="A/page.mp4", label=0, split="train"),), videos)
    storage = Watched(tmp_path / "out")
    storage.write("train/shard-000000.tar", b"of an earlier attempt")
    record = run(plan, videos, storage)
    assert (len(record.samples), len(record.rejects), record.size, record.sha256) == (
        0,
        1,
        0,
        hashlib.sha256(b"").hexdigest(),
    )
    assert list(storage.list("train/")) == ["train/shard-000000.json"]
    assert committed_record(plan, ShardSpec.of(CLASSES, PLAIN), storage) == record


def test_parts_of_one_file_are_different_samples(videos, tmp_path):
    parts = tuple(
        Source(path="A/one.mp4", label=0, split="train", start_s=s, end_s=e)
        for s, e in ((0.0, 0.15), (0.15, 0.35), (5.0, 6.0))
    )
    record = run(planned(parts, videos), videos, Watched(tmp_path / "out"))
    assert {s.key for s in record.samples} == {sample_key("A/one.mp4#0-0.15"), sample_key("A/one.mp4#0.15-0.35")}
    assert [(r.source, r.reason) for r in record.rejects] == [("A/one.mp4#5-6", "no_frames")]


def test_a_source_without_a_sample_leaves_nothing_behind(videos, tmp_path):
    made = make_one(Source(path="A/none.mp4", label=0, split="train"), videos, PLAIN, tmp_path)
    assert isinstance(made, RejectedSource)
    assert str(made).startswith("missing")


def test_the_record_tells_where_a_sample_came_from(plan, videos, tmp_path):
    record = run(plan, videos, Watched(tmp_path / "out"), StoredConfig(short_side=32))
    for sample in record.samples:
        with av.open(str(videos / sample.source)) as source:
            stream = source.streams.video[0]
            assert (sample.source_width, sample.source_height, sample.decoded_frames) == (
                stream.width,
                stream.height,
                sum(1 for _ in source.decode(stream)),
            )
        assert (sample.sar, sample.length_announced) == ("1:1", True)
    assert record.flow == flow_engine("numba").describe()
    assert (
        record.parameter_hash != ShardSpec.of(CLASSES, StoredConfig(short_side=32, flow_engine="opencv")).parameter_hash
    )


def test_a_node_with_another_engine_stores_nothing(plan, videos, tmp_path):
    stored = StoredConfig(short_side=32)
    other = ShardSpec.of(CLASSES, stored, {**flow_engine("numba").describe(), "version": "0"})
    storage = Watched(tmp_path / "out")
    with pytest.raises(
        ReciprocalError, match=r"the flow engine of this machine is .*install the same versions on all nodes"
    ):
        build_shard(plan, store=open_sources(str(videos)), spec=other, storage=storage)
    assert storage.written == []


def test_check_video_decodes(plan, videos, tmp_path):
    record = run(plan, videos, Watched(tmp_path / "out"))
    sample, data = record.samples[0], (tmp_path / "out/train/shard-000000.tar").read_bytes()
    member = sample.member("rgb.mp4")
    video = data[member.offset : member.offset + member.size]
    check_video(video, "rgb", sample.num_frames, sample.width, sample.height)
    with pytest.raises(ReciprocalError, match=r"decodes to \(frames, height, width\)"):
        check_video(video, "diff", sample.num_frames, sample.width, sample.height)
    with pytest.raises(ReciprocalError, match="cannot be decoded"):
        check_video(bytes(len(video)), "rgb", sample.num_frames, sample.width, sample.height)
