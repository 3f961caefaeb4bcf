"""``make_samples`` as a generator: order, lifetime of files, overlap, bounded read-ahead, and giving up early."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ReciprocalError, RejectedSource
from preprocessing.annotations import Source
from preprocessing.media.decode import VideoReader
from preprocessing.shard import clip, motion, stages
from preprocessing.shard.clip import Sample
from preprocessing.shard.plan import PlannedSource
from preprocessing.shard.stages import make_samples
from preprocessing.shard.work import StageTimes
from preprocessing.sources import open_sources
from preprocessing.synthetic.generate import SyntheticConfig, draw_clip, write_h264

PLAIN = StoredConfig(short_side=32, modalities=("rgb", "diff"))
FLOW = StoredConfig(short_side=32, modalities=("rgb", "flow", "diff"), flow_engine="opencv")
NAMES = tuple(f"A/{i}.mp4" for i in range(12))
BROKEN = "A/3.mp4"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of one class, of which the fourth is no video."""
    root = tmp_path_factory.mktemp("videos")
    (root / "A").mkdir()
    for i, name in enumerate(NAMES):
        write_h264(root / name, *draw_clip(SyntheticConfig(out=root, min_frames=4, max_frames=5), 0, "train", i))
    (root / BROKEN).write_bytes(b"<html>not found</html>")
    return root


def samples_of(videos: Path, folder: Path, stored: StoredConfig = PLAIN):
    inputs = [
        PlannedSource(source=Source(path=name, label=0, split="train"), key=f"key-{i:02d}", num_bytes=1)
        for i, name in enumerate(NAMES)
    ]
    return make_samples(inputs, open_sources(str(videos)), ("stripes",), stored, folder, times=StageTimes())


def our_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("encode", "decode"))}


@pytest.mark.slow
def test_every_source_comes_once_in_order_and_the_planned_key_is_used(videos: Path, tmp_path: Path) -> None:
    found = list(samples_of(videos, tmp_path))
    assert [source.path for source, _ in found] == list(NAMES)
    for i, (source, made) in enumerate(found):
        if source.path == BROKEN:
            assert isinstance(made, RejectedSource)
            assert made.reason == "not_video"
        else:
            assert isinstance(made, Sample)
            assert made.record.key == f"key-{i:02d}"


def test_a_samples_files_live_until_the_next_item_is_asked_for(videos: Path, tmp_path: Path) -> None:
    before: list[Path] = []
    for _, made in samples_of(videos, tmp_path):
        assert not [path for path in before if path.exists()]
        before = [] if isinstance(made, RejectedSource) else [m for m in made.members.values() if isinstance(m, Path)]
        assert all(path.stat().st_size > 0 for path in before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_early_ends_both_threads_and_removes_all_files(videos: Path, tmp_path: Path, taken: int) -> None:
    with contextlib.closing(samples_of(videos, tmp_path)) as samples:
        for _ in range(taken):
            next(samples)
    assert our_threads() == set()
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_consumer_ends_both_threads_and_removes_all_files(videos: Path, tmp_path: Path) -> None:
    def consume() -> None:
        with contextlib.closing(samples_of(videos, tmp_path)) as samples:
            for _ in samples:
                raise OSError("of the consumer")

    with pytest.raises(OSError, match="of the consumer"):
        consume()
    assert our_threads() == set()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["decode", "flow", "encode"])
def test_an_error_in_any_stage_ends_both_threads_and_removes_all_files(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def broken(*_: object) -> None:
        raise ReciprocalError("injected")

    target = {
        "decode": (stages, "VideoReader"),
        "flow": (motion, "quantise_flow"),
        "encode": (clip.VideoWriter, "close"),
    }[stage]
    monkeypatch.setattr(*target, broken if stage != "decode" else lambda *_, **__: broken())
    with pytest.raises(ReciprocalError, match="injected"):
        list(samples_of(videos, tmp_path, FLOW))
    assert our_threads() == set()
    assert not list(tmp_path.iterdir())


class OpenedVideos:
    """Counts the videos that the decode thread has opened; ``wait_for`` returns when there were so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._changed = 0, threading.Condition()

        def counted(*args, **kwargs) -> VideoReader:
            with self._changed:
                self.count += 1
                self._changed.notify_all()
            return VideoReader(*args, **kwargs)

        monkeypatch.setattr(stages, "VideoReader", counted)

    def wait_for(self, count: int, timeout_s: float = 20.0) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, timeout_s)


@pytest.mark.slow
def test_decoding_and_flow_continue_while_the_encoder_works(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first clip's encoder waits until the second video is open and the second clip's flow has been computed."""
    opened, computed, write, overlapped = OpenedVideos(monkeypatch), threading.Semaphore(0), clip.VideoWriter.write, []

    class Counted(stages.FlowStage):
        def next(self, frames_rgb_THWC):
            codes = super().next(frames_rgb_THWC)
            computed.release()
            return codes

    def waits(self, pictures):
        if not overlapped:
            overlapped.append(opened.wait_for(2) and computed.acquire(timeout=20.0) and computed.acquire(timeout=20.0))
        write(self, pictures)

    monkeypatch.setattr(stages, "FlowStage", Counted)
    monkeypatch.setattr(clip.VideoWriter, "write", waits)
    list(samples_of(videos, tmp_path, FLOW))
    assert overlapped == [True]


@pytest.mark.slow
def test_a_slow_consumer_stops_the_stages_before_it(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenedVideos(monkeypatch)
    with contextlib.closing(samples_of(videos, tmp_path)) as samples:
        next(samples)
        # Every clip here is one block and two tasks of the encoder: queues of three hold few of the twelve videos.
        assert not opened.wait_for(8, timeout_s=1.0)
        assert sum(1 for _ in samples) == len(NAMES) - 1
    assert opened.count == len(NAMES)
