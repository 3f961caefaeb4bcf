"""Which frames and which box a clip takes, against brute force and the wording of the configs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.boxes import area_box as random_box
from pipeline.data.sampling.boxes import centre_box
from pipeline.data.sampling.clips import sample_plans, stack_gather, view_plans, view_starts
from pipeline.data.sampling.order import sample_rng


@settings(max_examples=150, deadline=None)
@given(
    num_frames=st.integers(2, 60),
    clip_frames=st.integers(1, 12),
    stride=st.integers(1, 4),
    stack=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    views=st.integers(1, 5),
    train=st.booleans(),
    motion=st.booleans(),
)
def test_a_plan_names_the_frames_of_each_modality(
    num_frames, clip_frames, stride, stack, seed, views, train, motion
) -> None:
    clip = ClipConfig(num_frames=clip_frames, stride=stride, stack=stack, crop=16)
    modalities = ("rgb", "flow") if motion else ("rgb",)
    plans = sample_plans("k", num_frames, 48, 64, clip, modalities, train=train, seed=seed, epoch=0, num_views=views)
    assert len(plans) == (1 if train else views)
    for plan in plans:
        start = plan.rgb_frames[0]
        wanted_rgb = [min(start + t * stride, num_frames - 1) for t in range(clip_frames)]
        assert list(plan.rgb_frames) == wanted_rgb
        window = np.array(plan.motion_window)
        assert (np.diff(window) >= 0).all()
        wanted_motion = [
            [min(start + t * stride + k, num_frames - 2) for k in range(stack)] for t in range(clip_frames)
        ]
        assert window[stack_gather(clip)].tolist() == wanted_motion
        needed = (clip_frames - 1) * stride + 1 + (stack if motion else 0)
        if num_frames >= needed:  # nothing repeated where the video is long enough
            assert start + needed <= num_frames
        else:
            assert start == 0


def test_training_starts_cover_all_that_fit_and_no_more() -> None:
    clip = ClipConfig(num_frames=4, stride=2, stack=2, crop=16)

    def starts(*modalities: str) -> set[int]:
        plans = [sample_plans("k", 14, 48, 64, clip, modalities, train=True, seed=s, epoch=0)[0] for s in range(300)]
        return {plan.rgb_frames[0] for plan in plans}

    for motion in ("flow", "diff", "diff-online"):
        assert starts("rgb", motion) == set(range(6)), "motion frames 0..12; the last start reads motion 5 + 6 + 1 = 12"
    assert starts("rgb") == set(range(8)), "RGB frames 0..13; the last start reads 7 + 6 = 13"


def test_views_are_uniformly_spaced() -> None:
    clip = ClipConfig(num_frames=4, crop=16)  # spans 5 RGB frames
    assert view_starts(25, 1, clip, ("rgb", "flow")).tolist() == [10]
    assert view_starts(25, 5, clip, ("flow",)).tolist() == [0, 5, 10, 15, 20]
    assert view_starts(3, 4, clip, ("diff-online",)).tolist() == [0, 0, 0, 0]
    assert view_starts(25, 4, clip, ("rgb",)).tolist() == [0, 7, 14, 21]


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(32, 400), width=st.integers(32, 400), min_area=st.floats(0.05, 1.0), seed=st.integers(0, 10_000)
)
def test_training_boxes_are_legal(height, width, min_area, seed) -> None:
    box = random_box(height, width, min_area, np.random.default_rng(seed))
    assert box.top >= 0
    assert box.top + box.height <= height
    assert box.left >= 0
    assert box.left + box.width <= width
    if 3 / 4 <= width / height <= 4 / 3:
        slack = 1 / min(box.height, box.width)  # sides are whole pixels
        assert box.height * box.width >= min_area * height * width * (1 - 2 * slack)
        assert 3 / 4 * (1 - 2 * slack) <= box.width / box.height <= 4 / 3 * (1 + 2 * slack)


def test_a_frame_too_wide_for_any_box_gets_its_middle() -> None:
    box = random_box(50, 400, 1.0, np.random.default_rng(0))
    assert (box.height, box.top) == (50, 0)
    assert abs(box.width - 50 * 4 / 3) <= 1
    assert abs(box.left - (400 - box.width) / 2) <= 1


def test_boxes_fill_the_range_of_areas() -> None:
    shares = [
        (b.height * b.width) / (240 * 240)
        for b in (random_box(240, 240, 0.25, np.random.default_rng(s)) for s in range(400))
    ]
    assert min(shares) < 0.3
    assert max(shares) > 0.9
    assert 0.5 < float(np.mean(shares)) < 0.65  # uniform on [0.25, 1] is 0.625; large boxes are retried more often


@pytest.mark.parametrize(
    ("height", "width", "crop", "resize"),
    [(256, 340, 224, 0), (256, 456, 224, 256), (340, 256, 112, 128), (64, 86, 64, 0)],
)
def test_centre_box_is_resize_then_crop(height: int, width: int, crop: int, resize: int) -> None:
    clip = ClipConfig(crop=crop, resize=resize)
    box = centre_box(height, width, clip)
    scale = clip.test_resize / min(height, width)
    for begin, length, full in ((box.top, box.height, height), (box.left, box.width, width)):
        exact_begin = (full * scale - crop) / 2 / scale
        assert abs(begin - exact_begin) <= 1
        assert abs(length - crop / scale) <= 0.5


def test_flips_are_half_and_switchable() -> None:
    def plans(flip: bool) -> list:
        clip = ClipConfig(num_frames=4, crop=16, flip=flip)
        return [
            sample_plans(f"k{i}", 20, 48, 64, clip, ("rgb", "flow"), train=True, seed=0, epoch=0)[0] for i in range(400)
        ]

    on, off = plans(True), plans(False)
    assert 160 <= sum(p.flip for p in on) <= 240
    assert not any(p.flip for p in off)
    assert [(p.rgb_frames, p.box) for p in on] == [(p.rgb_frames, p.box) for p in off]
    assert not any(p.flip for p in view_plans(20, 48, 64, ClipConfig(num_frames=4, crop=16), ("rgb",), 3))


def test_a_plan_repeats_and_changes_with_the_epoch() -> None:
    clip = ClipConfig(num_frames=4, crop=16)
    assert sample_rng(0, 1, "k").random() == sample_rng(0, 1, "k").random()
    epochs = [sample_plans("k", 30, 48, 64, clip, ("rgb", "flow"), train=True, seed=0, epoch=e)[0] for e in range(8)]
    assert len(set(epochs)) == 8
    assert epochs[3] == sample_plans("k", 30, 48, 64, clip, ("rgb", "flow"), train=True, seed=0, epoch=3)[0]
