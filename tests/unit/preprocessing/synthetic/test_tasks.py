"""Binding and distractors: one stream sees one distribution in all classes, and what is drawn moves as said."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.flow.base import to_gray
from preprocessing.synthetic.generate import SyntheticConfig, draw_clip
from preprocessing.synthetic.scene import Object, Scene, render
from preprocessing.synthetic.tasks import (
    BINDING_CLASSES,
    DISTRACTOR_MOTIONS,
    DISTRACTOR_TEXTURES,
    PART_CLASSES,
    draw_binding,
    draw_distractors,
    draw_part,
)

COUNT = 400
KOLMOGOROV_SMIRNOV = 0.138  # 0.1 % bound of two samples of 400


def binding(label: int, count: int = COUNT) -> list[Scene]:
    return [draw_binding(np.random.default_rng([label, i]), label, 12) for i in range(count)]


def left_to_right(scene: Scene) -> list[Object]:
    return sorted(scene.objects, key=lambda one: one.center_T2[0, 0])


def textures(scene: Scene) -> tuple[str, ...]:
    return tuple(one.look.appearance for one in left_to_right(scene))


def motions(scene: Scene) -> tuple[str, ...]:
    return tuple("rise" if one.drift_T[-1] < 0 else "sink" for one in left_to_right(scene))


def distance(first: list[float], second: list[float]) -> float:
    """Two-sample Kolmogorov-Smirnov."""
    a, b, both = np.sort(first), np.sort(second), np.sort(first + second)
    return float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())


def test_appearance_alone_and_motion_alone_are_a_coin_toss_in_both_classes() -> None:
    for label in range(2):
        scenes = binding(label)
        for side in (textures, motions):
            counts = Counter(map(side, scenes))
            assert len(counts) == 2
            assert all({*pair} in ({"dots", "checks"}, {"rise", "sink"}) for pair in counts)
            assert abs(min(counts.values()) - COUNT / 2) < 4 * np.sqrt(COUNT) / 2  # four standard deviations


def test_together_they_are_the_class() -> None:
    for label, name in enumerate(BINDING_CLASSES):
        wanted = dict(zip(name.split("_")[::2], name.split("_")[1::2], strict=True))
        for scene in binding(label, 50):
            assert dict(zip(textures(scene), motions(scene), strict=True)) == wanted


def test_sizes_speeds_and_places_do_not_depend_on_the_texture_or_the_class() -> None:
    samples: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for label in range(2):
        for scene in binding(label):
            for one in scene.objects:
                values = (
                    one.radius_T[0] / scene.width,
                    abs(one.drift_T[1]) / scene.unit,
                    one.center_T2[0, 1] / scene.height,
                    one.look.aspect,
                    one.look.roundness,
                )
                samples.setdefault((label, one.look.appearance), []).append(values)
    columns = [list(zip(*found, strict=True)) for found in samples.values()]
    assert len(columns) == 4
    for other in columns[1:]:
        for first, second in zip(columns[0], other, strict=True):
            assert distance(list(first), list(second)) < KOLMOGOROV_SMIRNOV


def test_in_grey_the_textures_are_one() -> None:
    """The same scene with dots for checks: in colour another picture, in luma the same but for rounding. Optical flow
    is computed from luma.
    """
    scene = draw_binding(np.random.default_rng(3), 0, 6)
    other = {"dots": "checks", "checks": "dots"}
    swapped = dataclasses.replace(
        scene,
        objects=tuple(
            dataclasses.replace(one, look=dataclasses.replace(one.look, appearance=other[one.look.appearance]))
            for one in scene.objects
        ),
    )
    first, second = (render(s, np.random.default_rng(1)) for s in (scene, swapped))
    assert np.abs(first.astype(int) - second).max() > 60
    assert np.abs(to_gray(first).astype(int) - to_gray(second)).max() <= 1


def test_the_drawn_textures_drift_as_the_scene_says() -> None:
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for label in range(2):
        for scene in binding(label, 4):
            gray = to_gray(render(scene, np.random.default_rng(5)))
            y, x = np.mgrid[: scene.height, : scene.width]
            for one in scene.objects:
                measured = []
                for t in range(4):
                    cx, cy = one.center_T2[t] + scene.shake_T2[t]
                    inside = np.hypot((x - cx) / one.look.aspect, y - cy) < 0.6 * one.radius_T[t]
                    shake = scene.shake_T2[t + 1, 1] - scene.shake_T2[t, 1]
                    measured.append(np.median(dis.calc(gray[t], gray[t + 1], None)[inside, 1]) - shake)
                assert np.median(measured) == pytest.approx(one.drift_T[1], abs=0.25 * abs(one.drift_T[1]))


def test_a_part_is_one_object_of_a_binding_video() -> None:
    sides = Counter[bool]()
    for label, name in enumerate(PART_CLASSES):
        for i in range(50):
            scene = draw_part(np.random.default_rng([label, i]), label, 12)
            (one,) = scene.objects
            assert f"{one.look.appearance}_{motions(scene)[0]}" == name
            sides[one.center_T2[0, 0] < scene.width / 2] += 1
    assert min(sides.values()) > 100 - 4 * np.sqrt(50)


def distractors(label: int, count: int = 60) -> list[Scene]:
    return [draw_distractors(np.random.default_rng([label, i]), label, 14) for i in range(count)]


def motion_of(one: Object, unit: float) -> str:
    spans = {
        "sway": np.ptp(one.center_T2[:, 0]) / unit,
        "bob": np.ptp(one.center_T2[:, 1]) / unit,
        "swell": 10 * np.ptp(np.log(one.radius_T)),
    }
    moving = [name for name, span in spans.items() if span > 1]
    assert len(moving) <= 1
    return moving[0] if moving else ""


def test_of_the_objects_one_moves_and_is_the_class() -> None:
    for label in range(9):
        texture, motion = DISTRACTOR_TEXTURES[label // 3], DISTRACTOR_MOTIONS[label % 3]
        for scene in distractors(label):
            found = {one.look.appearance: motion_of(one, scene.unit) for one in scene.objects}
            assert len(found) == len(scene.objects)
            assert {texture} <= found.keys() <= set(DISTRACTOR_TEXTURES)
            assert found == {name: motion if name == texture else "" for name in found}


def test_none_one_or_two_objects_stand_still_equally_often_and_with_every_texture() -> None:
    counts, still = Counter(), Counter()
    for label in range(9):
        for scene in distractors(label):
            counts[len(scene.objects)] += 1
            still.update((label // 3, one.look.appearance) for one in scene.objects)
    assert counts.keys() == {1, 2, 3}
    assert min(counts.values()) > 180 - 4 * np.sqrt(540 * 2 / 9)
    others = [still[m, t] for m, moving in enumerate(DISTRACTOR_TEXTURES) for t in DISTRACTOR_TEXTURES if t != moving]
    assert min(others) > 90 - 4 * np.sqrt(45), "half of the clips of a moving texture show each of the others"


def test_one_frame_does_not_show_which_object_moves() -> None:
    """Places in its quarter and size of an object in a random frame: the same whether it is the one that moves."""
    rng = np.random.default_rng(0)
    values: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    for label in range(9):
        for scene in distractors(label, 70):
            for one in scene.objects:
                moves = one.look.appearance == DISTRACTOR_TEXTURES[label // 3]
                t = int(rng.integers(14))
                x, y = one.center_T2[t] / scene.width
                row = ((x - 0.27) % 0.46, (y - 0.27) % 0.46, one.radius_T[t] / scene.width)
                values[moves].append(row)
    bound = 1.95 * np.sqrt(1 / len(values[True]) + 1 / len(values[False]))  # 0.1 %
    for first, second in zip(zip(*values[True], strict=True), zip(*values[False], strict=True), strict=True):
        assert distance(list(first), list(second)) < bound


def test_the_camera_pans() -> None:
    pans = np.array([(s.shake_T2[-1] - s.shake_T2[0]) / s.unit for s in distractors(0)])
    assert pans.std(axis=0).min() > 1.5
    assert np.abs(pans.mean(axis=0)).max() < 4 * pans.std(axis=0).max() / np.sqrt(len(pans))


@pytest.mark.parametrize(("task", "classes"), [("binding", 2), ("parts", 4), ("distractors", 9)])
def test_classes_and_clips_of_a_task(tmp_path: Path, task: str, classes: int) -> None:
    config = SyntheticConfig(out=tmp_path, task=task, min_frames=4, max_frames=6)  # type: ignore[arg-type]
    assert len(set(config.classes)) == classes
    clips = [draw_clip(config, label, "train", 0) for label in range(classes)]
    assert all(frames.dtype == np.uint8 and 4 <= len(frames) <= 6 and 20 <= fps <= 30 for frames, fps in clips)
    assert np.array_equal(clips[0][0], draw_clip(config, 0, "train", 0)[0])
    assert not np.array_equal(clips[0][0], draw_clip(config, 0, "test", 0)[0][: len(clips[0][0])])
