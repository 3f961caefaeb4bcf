"""The bench of TV-L1: what it writes, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import av
import numpy as np
import pytest

from jobs.bench.command import main
from pipeline.errors import ConfigError, UserError
from preprocessing.flow.compare import Agreement, pick_pairs

SIZE = "64x48"


def write_video(path: Path, seed: int, frames: int = 12) -> None:
    """Smooth blobs that move by two pixels a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64]
    blobs = rng.uniform(0, 1, (6, 4))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for t in range(frames):
            value = sum(
                np.exp(-((x - 64 * a - 2 * t * (c - 0.5)) ** 2 + (y - 48 * b) ** 2) / (30 + 90 * d))
                for a, b, c, d in blobs
            )
            gray = np.clip(40 + 120 * value, 0, 255).astype(np.uint8)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, axis=2), format="rgb24"))
            )
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for k in range(4):
        write_video(folder / f"class {k % 2}" / f"clip {k}.mkv", k)
    (folder / "broken.mp4").write_bytes(b"<html>not a video</html>")
    (folder / "notes.txt").write_text("not a video by its name")
    return folder


@pytest.mark.slow
def test_result_holds_every_engine(videos, tmp_path, capsys):
    out = tmp_path / "out.json"
    code = main(["tvl1", "--videos", str(videos), "--json", str(out), "--pairs", "6", "--size", SIZE, "--repeat", "1"])
    result = json.loads(out.read_text())
    assert code == (0 if all(e["holds"] for e in result["engines"].values()) else 1)
    assert result["exactness"]["numba"]["holds"]
    assert result["exactness"]["numba"]["max_1_scale"] <= 1e-5
    assert (result["size"], result["pairs"], len(result["clips"])) == (SIZE, 6, 4)
    assert result["versions"]["numba"]
    assert result["commit"]
    assert result["hardware"]["threads_per_engine"] == 1
    assert {"opencv", "numba", "numba-fast"} <= set(result["engines"])
    for name, entry in result["engines"].items():
        assert {"s_per_pair", "speedup_vs_opencv", "mean_epe", "within_0p1", "over_1px", "worst_pair_epe"} <= set(
            entry
        ), name
    reference, numba = result["engines"]["opencv"], result["engines"]["numba"]
    assert (reference["mean_epe"], reference["within_0p1"], reference["speedup_vs_opencv"]) == (0, 1, 1)
    assert numba["speedup_vs_opencv"] == pytest.approx(reference["s_per_pair"] / numba["s_per_pair"])
    assert numba["speedup_vs_opencv"] > 2  # more than ten when nothing else runs
    assert result["engines"]["numba-fast"]["mode"] == "tvl1-fast"
    shown = capsys.readouterr().out
    assert "numba-fast" in shown
    assert "speed-up" in shown


def test_pairs_are_neighbours_spread_over_clips_and_time(videos):
    pairs = pick_pairs(videos, 9, (64, 48))
    assert pairs.gray_N2HW.shape == (9, 2, 48, 64)
    assert pairs.gray_N2HW.dtype == np.uint8
    assert sorted(pairs.clips.count(c) for c in set(pairs.clips)) == [2, 2, 2, 3]
    change = np.abs(pairs.gray_N2HW[:, 0].astype(int) - pairs.gray_N2HW[:, 1])
    assert (change.max((1, 2)) > 0).all()  # moved
    assert change.mean() < 12  # by a frame, not by a clip
    assert len(np.unique(pairs.gray_N2HW[:, 0].reshape(9, -1), axis=0)) == 9


def test_agreement_by_hand():
    reference = np.zeros((2, 2, 5, 10))
    flow = reference.copy()
    flow[0, :, 0, 0] = 3, 4
    flow[1, 0, :1, :] = 0.2
    found = Agreement.of(flow, reference)
    assert found.mean_epe == pytest.approx((5 + 10 * 0.2) / 100)
    assert found.within_0p1 == pytest.approx(89 / 100)
    assert found.over_1px == pytest.approx(1 / 100)
    assert found.worst_pair_epe == pytest.approx(0.1)
    assert not found.meets(fast=False)
    assert not found.meets(fast=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"videos": "nowhere"}, r"videos = .*nowhere.*give a folder"),
        ({"videos": "empty"}, r"videos = .*0 of its 0 videos can be read.*at least 3"),
        ({"videos": "two"}, r"videos = .*2 of its 3 videos can be read"),
        ({"engines": "farneback"}, r"engines = 'farneback': use opencv, numba"),
        ({"size": "340"}, r"size = '340': give WIDTHxHEIGHT"),
        ({"size": "340x8"}, r"size = '340x8'.*at least 16"),
        ({"pairs": "2"}, r"pairs = 2"),
        ({"repeat": "0"}, r"repeat = 0"),
        ({"json": "no/folder/x.json"}, r"json = .*make it first"),
    ],
)
def test_wrong_input_is_refused(videos, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for k in range(2):
        write_video(tmp_path / "two" / f"{k}.mkv", k, frames=3)
    (tmp_path / "two" / "zero.avi").write_bytes(b"")
    arguments = {"videos": str(videos), "json": "x.json", "size": SIZE} | change
    with pytest.raises(ConfigError, match=words):
        main(["tvl1", *(word for key, value in arguments.items() for word in (f"--{key}", value))])
    assert not (tmp_path / "x.json").exists()


def test_unknown_bench_is_refused():
    for args in ([], ["train"]):
        with pytest.raises(ConfigError, match=r"bench = .*name one of tvl1"):
            main(args)
    with pytest.raises(UserError, match="--speed"):
        main(["tvl1", "--speed", "3"])


def test_left_out_videos_are_named(videos, caplog):
    with caplog.at_level(logging.INFO):
        pick_pairs(videos, 3, (64, 48))
        pick_pairs(videos, 30, (64, 48))
    assert "broken.mp4 is left out: not_video" in caplog.text
