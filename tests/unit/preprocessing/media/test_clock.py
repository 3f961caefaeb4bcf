"""The constant rate that is made of any clock, against its definition and against frames that name themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RejectedSource
from preprocessing.media.clock import Clock, Resampler
from preprocessing.media.decode import decode_video


def levels(frames: np.ndarray) -> list[int]:
    """Which frames of ``gray_levels`` these are."""
    return [round((float(f.mean()) - 3) / 5) for f in frames]


def nearest_pictures(times_s: np.ndarray, fps: float, count: int) -> list[int]:
    """The picture nearest to k / fps for each of ``count`` frames, but none before half a usual interval."""
    half_s = np.minimum(np.diff(times_s), np.median(np.diff(times_s))) / 2
    changes_s = times_s[1:] - times_s[0] - half_s + min(0.002, 0.1 / fps)
    return [int((changes_s < k / fps).sum()) for k in range(count)]


def test_variable_rate_shows_the_picture_nearest_to_each_time(make_video, gray_levels):
    ticks = [0, 40, 200, 210, 220, 480, 500, 900, 940, 1000]
    decoded = decode_video(make_video("v.mkv", gray_levels(len(ticks)), ticks=ticks), short_side=48)
    fps = 9 / 1.0  # nine intervals in one second; no rate is usual here
    assert decoded.fps == pytest.approx(fps, rel=0.01)
    shown = levels(decoded.frames_rgb_THWC)
    assert shown == nearest_pictures(np.array(ticks) / 1000, decoded.fps, len(shown))
    assert shown[0] == 0


def test_times_that_tremble_around_a_constant_rate_repeat_no_picture(make_video, gray_levels):
    """As phones write them. The last picture at or before k / fps would repeat one in six, where flow is zero."""
    rng = np.random.default_rng(5)
    ticks = np.round(np.arange(50) * 1000 / 30 + rng.uniform(-6, 6, 50) * (np.arange(50) > 0)).astype(int)
    shown = levels(
        decode_video(make_video("j.mkv", gray_levels(50), ticks=ticks.tolist()), short_side=48).frames_rgb_THWC
    )
    assert shown == list(range(50))


def test_a_dropped_frame_is_filled_by_its_predecessor(make_video, gray_levels):
    ticks = [40 * i for i in range(30) if i != 11]
    decoded = decode_video(make_video("d.mkv", gray_levels(29), ticks=ticks), short_side=48)
    assert decoded.fps == pytest.approx(25, rel=1e-3)
    assert levels(decoded.frames_rgb_THWC) == [*range(11), 10, *range(11, 29)]


@pytest.mark.parametrize(
    ("fps", "expected"), [(12.5, list(range(0, 20, 2))), (50, [i // 2 for i in range(40)]), (25, list(range(20)))]
)
def test_frames_come_at_the_requested_rate(make_video, gray_levels, fps, expected):
    decoded = decode_video(make_video("r.mkv", gray_levels(20)), short_side=48, fps=fps)
    assert levels(decoded.frames_rgb_THWC) == expected
    assert decoded.fps == fps


def constant_rate(times_s: np.ndarray, announced_fps: float, fps: float = 0.0) -> tuple[np.ndarray, float]:
    """(index of the picture of every shown frame, frames per second) of a whole clip."""
    clock = Clock.of_times(times_s, announced_fps, fps)
    resampler = Resampler(clock)
    counts = [resampler.push(float(t)) for t in times_s]  # each is of the picture before
    counts = [*counts[1:], resampler.finish()]
    return np.repeat(np.arange(len(times_s)), counts), clock.fps


def test_constant_rate_ignores_a_clock_that_runs_backwards_or_is_missing():
    for times in (np.array([0, 0.1, 0.3, 0.2, 0.4]), np.array([0, np.nan, 0.2, 0.3, 0.4])):
        picks, fps = constant_rate(times, 30.0)
        assert picks.tolist() == [0, 1, 2, 3, 4]
        assert fps == pytest.approx(30)


@pytest.mark.parametrize("change", [0.08, 0.2, 0.45])
def test_a_rate_that_changes_on_the_way_is_no_constant_rate(change):
    """Shown one by one, the picture at the change would come some frames late."""
    times = np.cumsum([0.0, *[0.04 * (1 - change)] * 40, *[0.04 * (1 + change)] * 40])
    picks, fps = constant_rate(times, 0.0)
    assert fps == pytest.approx(25)
    assert picks.tolist() == nearest_pictures(times, fps, len(picks))
    frame_of_change = picks.tolist().index(40)
    assert frame_of_change == pytest.approx(40 * (1 - change), abs=1)


@pytest.mark.parametrize("rate", [24.0, 30000 / 1001, 59.94, 120.0])
def test_a_rate_that_is_rounded_to_milliseconds_is_constant(rate):
    times = np.round(np.arange(300) / rate, 3)
    picks, fps = constant_rate(times, rate)
    assert fps == rate
    assert picks.tolist() == list(range(300))


@settings(max_examples=60)
@given(gaps=st.lists(st.integers(1, 400), min_size=1, max_size=40), fps=st.sampled_from([0.0, 7.0, 25.0, 60.0]))
def test_constant_rate_against_its_definition(gaps, fps):
    times = np.cumsum([0, *gaps]) / 1000
    picks, rate = constant_rate(times, 0.0, fps)
    assert rate > 0
    assert fps == 0 or rate == fps
    if len(picks) == len(times) and np.array_equal(picks, np.arange(len(times))) and fps == 0:
        return
    usual, slack = float(np.median(np.diff(times))), min(0.002, 0.1 / rate)
    for k, pick in enumerate(picks):
        if pick > 0:
            assert times[pick] - min(usual, times[pick] - times[pick - 1]) / 2 <= k / rate - slack + 1e-9
        if pick + 1 < len(times):
            assert times[pick + 1] - min(usual, times[pick + 1] - times[pick]) / 2 >= k / rate - slack - 1e-9


@pytest.mark.parametrize("rate", [0.2, 0.9, 1.0, 1.05])
def test_slow_clocks_of_time_lapses_keep_every_picture(rate: float) -> None:
    times_s = np.arange(12) / rate
    clock = Clock.of_times(times_s, rate)
    assert (clock.fps, clock.every) == (pytest.approx(rate), True)
    stopped = Clock.of_times(np.zeros(12), rate)
    assert (stopped.fps, stopped.source_fps) == (pytest.approx(rate), rate), "evenly spaced at the announced rate"
    asked = Clock.of_times(np.arange(40) / 25, 25.0, fps=rate)
    assert (asked.fps, asked.every) == (rate, False)


def test_gaps_that_would_be_filled_by_thousands_of_copies_are_a_bad_clock() -> None:
    """12 pictures in ten hours asked for at 30 fps would be a million frames."""
    times_s = np.append(np.arange(11) / 30, 36_000.0)
    for fps in (0.0, 30.0):
        with pytest.raises(RejectedSource, match="12 pictures in 36000 s: most of 30 fps would be copies") as caught:
            Clock.of_times(times_s, 30.0, fps=fps)
        assert caught.value.reason == "bad_clock"
    for rate in (0.05, 2000.0):
        with pytest.raises(RejectedSource, match="frames per second") as caught:
            Clock.of_times(np.arange(12) / rate, rate)
        assert caught.value.reason == "bad_clock"
