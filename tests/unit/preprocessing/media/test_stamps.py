"""Single wrong time stamps are repaired, and the rest of the clock is kept."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.media.decode import VideoReader, decode_video
from preprocessing.media.stamps import PictureTimes, spread

LEVEL = 5  # of gray_levels


def shown(path: Path, start_s: float | None = None, end_s: float | None = None, fps: float = 0.0) -> list[int]:
    frames = decode_video(path, short_side=48, fps=fps, start_s=start_s, end_s=end_s).frames_rgb_THWC
    return [round((float(frame.mean()) - 3) / LEVEL) for frame in frames]


@pytest.mark.parametrize("wrong", [1, 17, 24, 48])
def test_one_time_stamp_twice_leaves_a_constant_rate_as_it_is(make_video, gray_levels, wrong):
    """The picture with its predecessor's time fills the hole that it leaves."""
    ticks = [40 * i for i in range(50)]
    ticks[wrong] = ticks[wrong - 1]
    assert shown(make_video("dup.mkv", gray_levels(50), ticks=ticks)) == list(range(50))


def test_one_time_stamp_twice_leaves_a_variable_rate_as_it_is(make_video, gray_levels):
    """Evenly spaced, pictures of the slow half would come up to several frames too early."""
    ticks = [*range(0, 1000, 40), *range(1000, 3000, 80)]
    right = shown(make_video("right.mkv", gray_levels(50), ticks=ticks), fps=25)
    ticks[12] = ticks[11]
    found = shown(make_video("dup.mkv", gray_levels(50), ticks=ticks), fps=25)
    assert len(found) == len(right) == 74
    assert [k for k in range(74) if found[k] != right[k]] == []


def test_a_picture_too_many_at_one_time_costs_no_other_its_place(make_video, gray_levels):
    ticks = [40 * i for i in range(20)]
    ticks.insert(10, ticks[10])
    found = shown(make_video("more.mkv", gray_levels(21), ticks=ticks))
    assert [p for p in found if p != 11] == [*range(11), *range(12, 21)]


@given(gaps=st.lists(st.integers(0, 90), min_size=2, max_size=40).filter(lambda gaps: sum(gaps) > 0))
def test_spread_times_increase_and_those_that_were_single_stay(gaps):
    times = np.cumsum([0, *gaps]) / 1000
    spaced = spread(times)
    assert (np.diff(spaced) > 0).all()
    values, counts = np.unique(times, return_counts=True)
    single = np.isin(times, values[counts == 1])
    assert np.array_equal(spaced[single], times[single])
    assert all(time in spaced for time in values)


def test_missing_time_stamps_come_before_the_first_that_is_known_and_beside_their_neighbour():
    ticks = [None, None, 100, 140, None, 220, 260, 300]
    times = PictureTimes(ticks, 0.001, 0.02, num_leading=2)
    expected = 0.04 * np.arange(8)
    assert np.allclose(times.times_s, expected)
    assert np.allclose([times.next(tick) for tick in ticks], expected)
    assert times.next(None) == pytest.approx(0.32)  # a picture more than there were packets


@pytest.mark.parametrize("offsets_s", [(10, 0), (200, 0), (0, 5000)], ids=["back", "far_back", "ahead"])
def test_a_transport_stream_whose_clock_is_set_anew_runs_on(tmp_path, make_video, gray_levels, offsets_s):
    data = b""
    for levels, offset_s in zip(np.split(gray_levels(50), [30]), offsets_s, strict=True):
        out = tmp_path / "part.ts"
        with (
            av.open(str(make_video("part.mp4", levels))) as source,
            av.open(str(out), "w", options={"output_ts_offset": str(offset_s)}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        data += out.read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(data)
    with VideoReader(path, short_side=48) as video:
        frames = np.stack(list(video))
        assert video.fps == pytest.approx(25)
    assert [round((float(f.mean()) - 3) / LEVEL) for f in frames] == list(range(50))
    assert shown(path, start_s=1.0, end_s=1.6) == list(range(25, 40))
