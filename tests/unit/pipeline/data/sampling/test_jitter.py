"""Colour jitter against closed forms of its definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.reference import prepare_frames
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan, sample_plans
from pipeline.data.sampling.jitter import Jitter, draw_jitter

LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
COLOURS = np.array([[200.0, 40.0, 90.0], [10.0, 120.0, 60.0], [128.0, 128.0, 128.0], [90.0, 91.0, 150.0]]).T


def changed(**parts: float) -> np.ndarray:
    matrix = Jitter(**parts).matrix()
    return matrix[:, :3] @ COLOURS + matrix[:, 3:]


def test_each_part_is_its_closed_form() -> None:
    grey = np.broadcast_to(LUMA @ COLOURS, COLOURS.shape)
    np.testing.assert_allclose(changed(), COLOURS, atol=1e-9)
    np.testing.assert_allclose(changed(brightness=1.3), 1.3 * COLOURS, atol=1e-9)
    np.testing.assert_allclose(changed(contrast=0.5), (COLOURS + 127.5) / 2, atol=1e-9)
    np.testing.assert_allclose(changed(contrast=0.0), 127.5, atol=1e-9)
    # YIQ's constants are rounded, so a grey has a chroma of some 1e-4 of its level.
    np.testing.assert_allclose(changed(saturation=0.0), grey, atol=0.1)
    np.testing.assert_allclose(changed(saturation=1.4), grey + 1.4 * (COLOURS - grey), atol=0.1)
    np.testing.assert_allclose(
        changed(hue=0.5), 2 * grey - COLOURS, atol=0.1
    )  # half a turn is the complement of equal luma
    np.testing.assert_allclose(changed(hue=1.0), COLOURS, atol=1e-9)
    quarter = Jitter(hue=0.25).matrix()[:, :3]
    np.testing.assert_allclose(quarter @ quarter, Jitter(hue=0.5).matrix()[:, :3], atol=1e-9)
    np.testing.assert_allclose(LUMA @ changed(hue=0.13, saturation=0.7), LUMA @ COLOURS, atol=1e-9)


def test_a_turn_of_the_hue_goes_the_way_of_the_colour_wheel() -> None:
    """Red turned by +120 degrees is nearest to green or blue, and twice that to the other: the wheel has one
    direction.
    """
    red = np.array([255.0, 0, 0])
    third = Jitter(hue=1 / 3).matrix()[:, :3] @ red
    two_thirds = Jitter(hue=2 / 3).matrix()[:, :3] @ red
    assert {int(third.argmax()), int(two_thirds.argmax())} == {1, 2}


def test_the_order_is_brightness_contrast_saturation_hue() -> None:
    parts = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.5, "hue": 0.1}
    x = COLOURS
    for name, value in parts.items():
        matrix = Jitter(**{name: value}).matrix()
        x = matrix[:, :3] @ x + matrix[:, 3:]
    np.testing.assert_allclose(changed(**parts), x, atol=1e-9)


def test_draws_fill_their_ranges_and_stay_apart() -> None:
    clip = ClipConfig(brightness=0.4, contrast=0.2, saturation=1.0, hue=0.1)
    draws = [draw_jitter(clip, np.random.default_rng(seed)) for seed in range(500)]
    for name, centre, reach in (("brightness", 1, 0.4), ("contrast", 1, 0.2), ("saturation", 1, 1.0), ("hue", 0, 0.1)):
        values = np.array([getattr(d, name) for d in draws])
        assert centre - reach <= values.min() < centre - 0.97 * reach
        assert centre + reach >= values.max() > centre + 0.97 * reach
    assert draw_jitter(ClipConfig(), np.random.default_rng(0)) is None
    one = draw_jitter(dataclasses.replace(clip, hue=0.0), np.random.default_rng(7))
    assert one == dataclasses.replace(draws[7], hue=0.0), "turning one knob off changes no other draw"


@pytest.mark.parametrize("norm", ["inception", "caffe"])
def test_a_clip_is_changed_as_a_whole_then_cut_to_codes(norm) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    jitter = Jitter(1.3, 1.2, 0.5, 0.07)
    clip = ClipConfig(num_frames=3, crop=16, norm=norm)
    plan = ClipPlan((0, 1, 2), (0, 1, 2), Box(0, 0, 16, 16), False, jitter)
    matrix = jitter.matrix()
    codes = np.clip(frames @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    wanted = codes / 127.5 - 1 if norm == "inception" else codes[..., ::-1] - np.array([104, 117, 128])
    found = prepare_frames("rgb", frames, plan, clip)
    np.testing.assert_allclose(found, wanted.transpose(0, 3, 1, 2), atol=1e-3)
    assert codes.min() == 0, "nothing was cut: this test would see nothing"
    assert codes.max() == 255
    pairs = dataclasses.replace(plan, motion_window=(0, 1))
    for modality, shaken in (("diff", plan), ("diff-online", pairs)):
        plain = dataclasses.replace(shaken, jitter=None)
        assert torch.equal(
            prepare_frames(modality, frames, shaken, clip), prepare_frames(modality, frames, plain, clip)
        ), "jitter is for rgb alone"


def test_plans_carry_one_draw_a_clip() -> None:
    clip = ClipConfig(num_frames=4, crop=16, hue=0.2)
    plans = [sample_plans("k", 30, 48, 64, clip, ("rgb", "flow"), train=True, seed=0, epoch=e)[0] for e in range(5)]
    assert len({p.jitter for p in plans}) == 5
    assert plans[2] == sample_plans("k", 30, 48, 64, clip, ("rgb", "flow"), train=True, seed=0, epoch=2)[0]
