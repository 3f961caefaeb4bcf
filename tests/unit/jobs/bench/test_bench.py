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
from preprocessing.flow.base import to_gray
from preprocessing.flow.compare import Agreement
from preprocessing.flow.pairs import Pairs, pick_pairs, translated_pairs
from preprocessing.media.decode import decode_video

SIZE = "64x48"


def write_video(path: Path, seed: int, frames: int = 12, hurry: tuple[int, ...] = ()) -> None:
    """Smooth blobs that move by up to a pixel a frame, and after the frames in ``hurry`` by five times that."""
    at = np.cumsum([0, *(5 if t in hurry else 1 for t in range(frames - 1))])
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64]
    blobs = rng.uniform(0, 1, (6, 4))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for t in range(frames):
            value = sum(
                np.exp(-((x - 64 * a - 2 * at[t] * (c - 0.5)) ** 2 + (y - 48 * b) ** 2) / (30 + 90 * d))
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
    assert result["motion"] == {"fps": 0, "fastest": False, "translations": []}
    assert result["engines"]["numba"]["error_to_truth"] is None
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


@pytest.mark.slow
def test_known_translations_are_compared_with_the_truth(videos, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["tvl1", "--videos", str(videos), "--json", str(out), "--pairs", "3", "--size", SIZE, "--repeat", "1"]
    code = main([*arguments, "--engines", "numba", "--translations", "2", "3"])
    result = json.loads(out.read_text())
    assert result["motion"]["translations"] == [2, 3]
    opencv, numba = (result["engines"][name]["error_to_truth"] for name in ("opencv", "numba"))
    assert numba == pytest.approx(opencv, abs=0.02)
    assert code == 0


def test_fewer_frames_a_second_make_larger_motion(videos):
    size = (64, 48)
    every, slow = pick_pairs(videos, 8, size), pick_pairs(videos, 8, size, fps=5)  # of 25
    assert slow.clips == every.clips
    change = [np.abs(p.gray_N2HW[:, 0].astype(int) - p.gray_N2HW[:, 1]).mean() for p in (every, slow)]
    assert change[1] > 2 * change[0]


def test_fastest_pairs_are_those_with_the_largest_motion(tmp_path):
    for k in range(3):
        write_video(tmp_path / f"{k}.mkv", k, hurry=(4, 8))
    evenly, fastest = (pick_pairs(tmp_path, 6, (64, 48), fastest=f) for f in (False, True))
    assert fastest.clips == evenly.clips
    videos = [decode_video(tmp_path / f"{k}.mkv", short_side=48).frames_rgb_THWC for k in range(3)]
    for name, pair in zip(fastest.clips, fastest.gray_N2HW, strict=True):
        frames = to_gray(videos[int(name[0])])
        assert [t for t in range(11) if np.array_equal(frames[t], pair[0])] in ([4], [8])


@pytest.mark.parametrize("lengths", [(3,), (2, 5, 11.4)])
def test_translations_are_what_they_say(videos, lengths):
    pairs = translated_pairs(videos, 7, (48, 40), lengths)
    assert pairs.gray_N2HW.shape == (7, 2, 40, 48)
    assert pairs.truth_N2 is not None
    for k, ((first, second), (u, v)) in enumerate(zip(pairs.gray_N2HW, pairs.truth_N2, strict=True)):
        assert np.hypot(u, v) == pytest.approx(lengths[k % len(lengths)], abs=0.8)
        y, x = np.mgrid[12:28, 12:36]  # what is here in the first frame is (u, v) farther in the second
        assert np.array_equal(first[y, x], second[y + v, x + u])
        assert not np.array_equal(first[y, x], second[y, x])
    directions = np.degrees(np.arctan2(*pairs.truth_N2.T[::-1]))
    assert np.ptp(directions) > 180


def test_error_to_a_known_flow_by_hand():
    pairs = Pairs(np.zeros((2, 2, 4, 5), np.uint8), ("a", "b"), np.array([[2, 0], [-1, -3]]))
    flow = np.zeros((2, 2, 4, 5))
    flow[0, 0] = 2
    flow[0, :, :, 3:] = 99  # leaves the picture on the right: not counted
    flow[1] = np.array([-1, 1])[:, None, None]  # 4 px off where it is counted: the last row but for its first pixel
    flow[1, :, :3], flow[1, :, :, 0] = 99, 99
    assert pairs.error_to_truth(flow) == pytest.approx((0 + 4) / 2)


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
        ({"fps": "-1"}, r"fps = -1.*give frames a second"),
        ({"fps": "nan"}, r"fps = nan.*give frames a second"),
        ({"translations": "0"}, r"translations = 0.*from 1 to half of the smaller side \(24\)"),
        ({"translations": "30"}, r"translations = 30.*\(24\)"),
        ({"translations": "3", "fps": "10"}, r"translations = .*leave out --fps and --fastest"),
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
