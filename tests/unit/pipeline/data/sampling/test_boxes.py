"""Training boxes and test crops against the wording of their sources, counted by brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.boxes import Box, centre_box, corner_box, fixed_box, view_boxes
from pipeline.data.sampling.clips import sample_plans
from pipeline.errors import ConfigError


def test_corner_crops_are_tsns() -> None:
    """Every side pair and place comes, about equally often, and nothing else: 256 x 340 pictures give sides of 256,
    224, 192 and 168.
    """
    height, width = 256, 340
    boxes = [corner_box(height, width, np.random.default_rng(seed)) for seed in range(6000)]
    sides = (256, 224, 192, 168)
    allowed = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    pairs = Counter((b.height, b.width) for b in boxes)
    assert set(pairs) == allowed
    assert len(allowed) == 10
    assert max(pairs.values()) < 1.3 * min(pairs.values()), pairs
    quarters = Counter(
        (round(4 * b.top / (height - b.height)), round(4 * b.left / (width - b.width)))
        for b in boxes
        if b.height < height
    )
    corners, middles = {(0, 0), (0, 4), (4, 0), (4, 4)}, {(0, 2), (2, 0), (2, 4), (4, 2)}
    assert set(quarters) == {*corners, *middles, (2, 2), (1, 1), (1, 3), (3, 1), (3, 3)}
    assert max(quarters.values()) < 1.4 * min(quarters.values()), quarters
    assert {b.top + b.height for b in boxes if b.top and b.left + b.width == width} >= {256}, (
        "the far corner is the picture's own"
    )


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(32, 400),
    width=st.integers(32, 400),
    kind=st.sampled_from(["area", "corners", "fixed"]),
    seed=st.integers(0, 10_000),
)
def test_every_box_lies_in_the_picture(height: int, width: int, kind, seed: int) -> None:
    clip = ClipConfig(num_frames=2, crop=16, train_crop=kind, min_area=0.2)
    box = sample_plans("k", 9, height, width, clip, ("rgb", "flow"), train=True, seed=seed, epoch=0)[0].box
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert min(box.height, box.width) >= 1


def test_fixed_crops_are_the_test_square_anywhere() -> None:
    clip = ClipConfig(crop=224, resize=256)
    boxes = [fixed_box(64, 86, clip, np.random.default_rng(seed)) for seed in range(2000)]
    assert {(b.height, b.width) for b in boxes} == {(56, 56)}
    assert {b.top for b in boxes} == set(range(64 - 56 + 1))
    assert {b.left for b in boxes} == set(range(86 - 56 + 1))


@pytest.mark.parametrize(
    ("height", "width", "places"),
    [(64, 86, [(4, 0), (4, 15), (4, 30)]), (86, 64, [(0, 4), (15, 4), (30, 4)]), (64, 64, [(4, 0), (4, 4), (4, 8)])],
)
def test_three_crops_run_along_the_long_side(height: int, width: int, places: list[tuple[int, int]]) -> None:
    clip = ClipConfig(crop=224, resize=256)
    boxes = view_boxes(height, width, clip, 3)
    assert [(b.top, b.left) for b in boxes] == places
    assert {(b.height, b.width) for b in boxes} == {(56, 56)}
    assert boxes[1] == centre_box(height, width, clip) == view_boxes(height, width, clip, 1)[0]
    with pytest.raises(ValueError, match="num_crops is 2"):
        view_boxes(height, width, clip, 2)


def test_views_come_clip_by_clip_then_crop_by_crop() -> None:
    clip = ClipConfig(num_frames=4, crop=224, resize=256)
    plans = sample_plans("k", 25, 64, 86, clip, ("rgb", "flow"), train=False, seed=0, epoch=0, num_views=2, num_crops=3)
    assert [(p.rgb_frames[0], p.box.left) for p in plans] == [(0, 0), (0, 15), (0, 30), (20, 0), (20, 15), (20, 30)]
    assert not any(p.flip or p.jitter for p in plans)


def test_crops_and_jitter_leave_older_draws_alone() -> None:
    """The numbers of a clip are drawn in a fixed order: frames, box, flip, colour."""
    plain = ClipConfig(num_frames=4, crop=16)
    shaken = ClipConfig(num_frames=4, crop=16, brightness=0.3)
    for epoch in range(20):
        (a,), (b,) = (
            sample_plans("k", 30, 48, 64, c, ("rgb", "flow"), train=True, seed=3, epoch=epoch) for c in (plain, shaken)
        )
        assert (a.rgb_frames, a.motion_window, a.box, a.flip) == (b.rgb_frames, b.motion_window, b.box, b.flip)
        assert a.jitter is None
        assert b.jitter is not None
    # What the first version drew for this key: a resumed run must see the same clips.
    (old,) = sample_plans("clip", 30, 48, 64, plain, ("rgb", "flow"), train=True, seed=0, epoch=0)
    assert (old.rgb_frames[0], old.box, old.flip) == OLD


OLD = (15, Box(2, 14, 45, 34), False)


@pytest.mark.parametrize(("field", "value"), [("brightness", 1.5), ("contrast", -0.1), ("saturation", 2), ("hue", 0.6)])
def test_strengths_have_bounds(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"clip\.{field} = {value}: must be in \[0, "):
        ClipConfig(**{field: value})
