"""Videos shorter than a clip: what their clips take, and what the user is told before training."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClipConfig
from pipeline.data.sampling.clips import sample_plans, span, stack_gather, view_plans
from pipeline.data.sampling.short import short_note, short_video_note

BOTH = ("rgb", "flow")
SMALL = ClipConfig(num_frames=10, stride=3, crop=16)  # what crn_small takes: 28 frames, and one more for the motion


@settings(max_examples=150, deadline=None)
@given(
    num_frames=st.integers(1, 60),
    clip_frames=st.integers(1, 12),
    stride=st.integers(1, 4),
    stack=st.integers(1, 6),
    seed=st.integers(0, 1000),
    train=st.booleans(),
    modalities=st.sampled_from([("rgb", "flow"), ("rgb",)]),
)
def test_a_stretched_clip_covers_the_whole_video_and_a_longer_video_is_as_before(
    num_frames, clip_frames, stride, stack, seed, train, modalities
) -> None:
    repeat = ClipConfig(num_frames=clip_frames, stride=stride, stack=stack, crop=16)
    stretch = dataclasses.replace(repeat, short_videos="stretch")
    (before,), (plan,) = (
        sample_plans("k", num_frames, 48, 64, clip, modalities, train=train, seed=seed, epoch=0)
        for clip in (repeat, stretch)
    )
    if num_frames >= span(repeat, modalities):
        assert plan == before
        return
    assert (plan.box, plan.flip, plan.jitter) == (before.box, before.flip, before.jitter), (
        "other draws are as they were"
    )
    if "flow" in modalities:
        motion = np.array(plan.motion_window)[stack_gather(stretch)]
        assert motion.shape == (clip_frames, stack)
        assert motion[:, 0].tolist() == list(plan.rgb_frames), "motion belongs to the frame that is shown"
        assert (motion[0, 0], motion[-1, -1]) == (0, max(0, num_frames - 2)), "from the first frame to the last motion"
        share = max(0, num_frames - 2) / max(1, span(repeat, modalities) - 2)
    else:
        assert (plan.rgb_frames[0], plan.rgb_frames[-1]) == (0, num_frames - 1), "from the first frame to the last"
        share = (num_frames - 1) / max(1, span(repeat, modalities) - 1)
    wanted = np.arange(clip_frames) * stride * share
    assert np.abs(np.array(plan.rgb_frames) - wanted).max() <= 0.5, "evenly, to the nearest frame"
    if num_frames - ("flow" in modalities) >= clip_frames and stack == 1:
        assert len(set(plan.rgb_frames)) == clip_frames, "nothing is shown twice"


def test_two_seconds_at_ten_frames_a_second() -> None:
    (repeated,) = view_plans(20, 48, 64, SMALL, BOTH, 1)
    (stretched,) = view_plans(20, 48, 64, dataclasses.replace(SMALL, short_videos="stretch"), BOTH, 1)
    assert repeated.rgb_frames == (0, 3, 6, 9, 12, 15, 18, 19, 19, 19)
    assert stretched.rgb_frames == stretched.motion_window == (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)
    (alone,) = view_plans(20, 48, 64, dataclasses.replace(SMALL, short_videos="stretch"), ("rgb",), 1)
    assert alone.rgb_frames == (0, 2, 4, 6, 8, 11, 13, 15, 17, 19)


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "flow"), ("flow",), ("rgb", "diff-online")])
@pytest.mark.parametrize("clip", [SMALL, ClipConfig(num_frames=4, stride=1, stack=5, crop=16)])
def test_the_videos_counted_as_short_are_those_that_lack_a_frame_of_their_clip(clip, modalities) -> None:
    lengths = np.arange(2, 40)
    (whole,) = view_plans(1000, 48, 64, clip, modalities, 1)

    def lacks(num_frames: int) -> bool:
        (plan,) = view_plans(num_frames, 48, 64, clip, modalities, 1)
        taken, wanted = (
            [np.array(p.motion_window if m != "rgb" else p.rgb_frames) - p.rgb_frames[0] for m in modalities]
            for p in (plan, whole)
        )
        return any((a != b).any() for a, b in zip(taken, wanted, strict=True))

    short = sum(lacks(n) for n in lengths.tolist())
    assert short_note(lengths, clip, modalities, "train", {"fps": 0.0}).startswith(
        f"{short} of 38 videos in split 'train' "
    )


def test_the_note_says_how_many_and_what_to_use() -> None:
    frames = np.array([20] * 312 + [40] * 48)
    note = short_note(frames, SMALL, BOTH, "train", {"fps": 10.0})
    assert note == (
        "312 of 360 videos in split 'train' are shorter than the 29 frames at 10 fps that a clip covers"
        " (clip.num-frames 10, clip.stride 3): the last frame is repeated; train with --clip.stride 2 (20 frames, 0"
        " too short) or --clip.short-videos stretch"
    )
    stretched = dataclasses.replace(SMALL, short_videos="stretch")
    assert short_note(frames, stretched, BOTH, "train", {}).endswith("the frames of a clip are taken closer together")
    few = short_note(np.array([8, 20, 40]), stretched, BOTH, "train", {})
    assert few.endswith("; in 1 of them some frames are shown twice")
    tens = short_note(np.array([10, 40]), stretched, BOTH, "train", {})
    assert tens.endswith("; in 1 of them some frames are shown twice"), "ten frames have nine of motion"
    assert short_note(np.array([10, 40]), stretched, ("rgb",), "train", {}).endswith("taken closer together")
    assert short_note(np.array([29, 40]), SMALL, BOTH, "train", {"fps": 10.0}) == ""
    assert short_note(np.array([12, 40]), SMALL, BOTH, "train", {}).endswith(
        "the last frame is repeated; train with --clip.stride 1 (11 frames, 0 too short) or --clip.short-videos stretch"
    )
    assert "1 of 2 videos in split 'val' is shorter than" in short_note(np.array([20, 40]), SMALL, BOTH, "val", {})
    tight = short_note(np.array([21] * 19 + [5]), SMALL, BOTH, "train", {})
    assert "--clip.stride 2 (20 frames, 1 too short)" in tight, "one in twenty is few"
    assert not re.search("stride 1", short_note(np.array([5, 40]), SMALL, BOTH, "train", {"fps": 10.0})), "none helps"


def test_one_video_has_a_note_exactly_where_it_counts_as_short() -> None:
    for clip in (SMALL, dataclasses.replace(SMALL, short_videos="stretch")):
        for frames in range(1, 40):
            counted = short_note(np.array([frames]), clip, BOTH, "test", {})
            assert bool(short_video_note(frames, clip, BOTH)) == bool(counted)
    assert short_video_note(20, SMALL, BOTH) == (
        "20 frames, fewer than the 29 that a clip covers: frames are repeated at the end"
    )
