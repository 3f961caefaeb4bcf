"""The synthetic set: reproducible, and neither colour, place nor one frame tells the class."""

from __future__ import annotations

import filecmp
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError, UserError
from preprocessing.annotations import read_ucf101
from preprocessing.media.decode import decode_video
from preprocessing.synthetic.generate import SyntheticConfig, draw_clip, generate, main
from preprocessing.synthetic.scene import MOTIONS, Scene, draw_pair, render
from preprocessing.synthetic.textures import APPEARANCES


def files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(SyntheticConfig(out=tmp_path / name, seed=seed, train=1, val=0, test=1, appearances=2, motions=2))
    names = files(tmp_path / "a")
    assert names == files(tmp_path / "b") == files(tmp_path / "c")
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])
    videos = [n for n in names if n.endswith(".mp4")]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", videos, shallow=False)[1] == videos


def test_a_clip_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = (
        SyntheticConfig(out=tmp_path, train=1),
        SyntheticConfig(out=tmp_path, train=50, appearances=4, motions=4),
    )
    assert few.pairs[4] == many.pairs[5] == ("dots", "sink")
    assert few.classes[4] == many.classes[5] == "dots_sink"
    assert np.array_equal(draw_clip(few, 4, "train", 0)[0], draw_clip(many, 5, "train", 0)[0])


@pytest.mark.slow
def test_files_are_what_the_lists_say(tmp_path):
    out = tmp_path / "set"
    assert main([str(out), "--train", "2", "--val", "1", "--test", "1"]) == 0
    found = read_ucf101(out)
    assert found.classes[:4] == ("stripes_rise", "stripes_sink", "stripes_sway", "dots_rise")
    assert len(found.sources) == 36
    assert sorted(f"videos/{s.path}" for s in found.sources) == [n for n in files(out) if n.endswith(".mp4")]
    assert len({Path(s.path).name for s in found.sources}) == 36
    for source in found.sources[::5]:
        with av.open(str(out / "videos" / source.path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.pix_fmt == "yuv420p"
            assert 20 <= stream.frames <= 32
            assert 20 <= stream.average_rate <= 30
            assert 96 <= stream.width <= 176
            assert 72 <= stream.height <= 128
        decoded = decode_video(out / "videos" / source.path, short_side=72)
        assert len(decoded.frames_rgb_THWC) >= 20
    with pytest.raises(UserError, match="is not empty"):
        main([str(out)])


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"appearances = 5: must be in 1..4"):
        SyntheticConfig(out=tmp_path, appearances=5)
    with pytest.raises(
        ConfigError, match=r"motions = 2: task binding has classes of its own: leave motions out, or use"
    ):
        SyntheticConfig(out=tmp_path, task="binding", motions=2)
    with pytest.raises(ConfigError, match=r"max_frames = 3: must be at least min_frames = 20"):
        SyntheticConfig(out=tmp_path, max_frames=3)
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match="is not empty"):
        generate(SyntheticConfig(out=tmp_path))


def scenes(appearance: str, motion: str, count: int, num_frames: int = 24) -> list[Scene]:
    return [
        draw_pair(
            np.random.default_rng([APPEARANCES.index(appearance), MOTIONS.index(motion), i]),
            appearance,
            motion,
            num_frames,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_shows_in_any_eight_frames_and_only_that_motion(motion):
    for scene in scenes("dots", motion, 60):
        unit = min(scene.height, scene.width) / 64
        one = scene.objects[0]
        x, y, size = one.center_T2[:, 0] / unit, one.center_T2[:, 1], np.log(one.radius_T)
        dy = (np.diff(y) + scene.height / 2) % scene.height - scene.height / 2  # rows are a circle
        for start in range(len(x) - 7):
            part = slice(start, start + 8)
            rise, reach, growth = dy[start : start + 7].sum() / unit, np.ptp(x[part]), np.ptp(size[part])
            assert (rise < -9) == (motion == "rise"), (motion, rise)
            assert (rise > 9) == (motion == "sink"), (motion, rise)
            assert (reach > 4) == (motion == "sway"), (motion, reach)
            assert (growth > 0.15) == (motion == "swell"), (motion, growth)
            assert np.abs(dy / unit).max() < 3


def test_one_frame_has_the_same_law_whatever_the_motion():
    """Two-sample Kolmogorov-Smirnov distances of place and size in a random frame; the 0.1 % bound at 500 x 500 is
    0.123.
    """
    rng = np.random.default_rng(0)
    values = {}
    for motion in MOTIONS:
        rows = []
        for scene in scenes("rings", motion, 500):
            one = scene.objects[0]
            t = rng.integers(len(one.radius_T))
            unit = min(scene.height, scene.width) / 64
            rows.append(
                (
                    one.center_T2[t, 1] / scene.height,
                    (one.center_T2[t, 0] - scene.width / 2) / unit,
                    one.radius_T[t] / scene.height,
                )
            )
        values[motion] = np.array(rows)
    for a in MOTIONS:
        for b in MOTIONS:
            for k in range(3):
                both = np.sort(np.concatenate([values[a][:, k], values[b][:, k]]))
                distance = (
                    np.abs(
                        np.searchsorted(np.sort(values[a][:, k]), both, "right")
                        - np.searchsorted(np.sort(values[b][:, k]), both, "right")
                    ).max()
                    / 500
                )
                assert distance < 0.123, (a, b, ("y", "x", "radius")[k], distance)


@pytest.mark.slow
def test_colour_of_one_frame_is_at_chance(tmp_path):
    """A linear classifier on mean and spread of a frame's colours; 2 x 12 clips of 9 classes, chance 1/9."""
    config = SyntheticConfig(out=tmp_path, min_frames=2, max_frames=4)
    features, labels = [], []
    for label in range(9):
        for index in range(24):
            frame = draw_clip(config, label, "train", index)[0][0].reshape(-1, 3).astype(np.float64)
            features.append([*frame.mean(0), *frame.std(0), 1.0])
            labels.append(label)
    x, y = np.array(features), np.array(labels)
    x[:, :6] = (x[:, :6] - x[:, :6].mean(0)) / x[:, :6].std(0)
    fit, test = np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1
    weights = np.linalg.lstsq(x[fit].T @ x[fit] + np.eye(7), x[fit].T @ np.eye(9)[y[fit]], rcond=None)[0]
    accuracy = float(np.mean((x[test] @ weights).argmax(1) == y[test]))
    assert accuracy < 1 / 9 + 4 * np.sqrt(1 / 9 * 8 / 9 / test.sum()), f"{accuracy:.3f} on {test.sum()} clips"


def test_what_is_drawn_is_what_the_scene_says():
    """The brightness-weighted centre of the drawn object, found by comparing with the empty background, follows the
    scene.
    """
    scene = next(s for s in scenes("stripes", "sway", 50) if 0.35 < s.objects[0].center_T2[0, 1] / s.height < 0.65)
    one = scene.objects[0]
    frames = render(scene, np.random.default_rng(5)).astype(np.int16)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(f.astype(np.uint8), cv2.COLOR_RGB2GRAY) for f in frames]
    y, x = np.mgrid[: scene.height, : scene.width]
    measured, drawn = [], []
    for t in range(len(gray) - 1):
        cx, cy = one.center_T2[t] + scene.shake_T2[t]
        inside = np.hypot((x - cx) / one.look.aspect, y - cy) < 0.6 * one.radius_T[t]
        measured.append(dis.calc(gray[t], gray[t + 1], None)[inside, 0].mean())
        drawn.append(one.center_T2[t + 1, 0] + scene.shake_T2[t + 1, 0] - cx)
    assert np.corrcoef(measured, drawn)[0, 1] > 0.9
