"""Single wrong time stamps are repaired, and the rest of the clock is kept."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import RejectedSource
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


@example(gaps=[0, 2, 0, 1])  # two that both spread into the one gap between them
@given(gaps=st.lists(st.sampled_from([0, 0, 1, 2, 40, 80]), min_size=2, max_size=40).filter(lambda gaps: sum(gaps) > 0))
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


@pytest.mark.parametrize(("num_b_frames", "dropped"), [(0, {11}), (0, {7, 8, 21}), (2, set())])
def test_empty_packets_of_avi_are_dropped_frames_whose_predecessor_stays(tmp_path, num_b_frames, dropped):
    """AVI has no time stamps: a frame that was dropped is a packet without bytes, and B-frames have only an order."""
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("mpeg4", rate=25, options={"bf": str(num_b_frames), "threads": "1", "qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(25):
            bar = np.full((48, 64, 3), 20, np.uint8)
            bar[:, 2 * number : 2 * number + 4] = 220
            frame = av.VideoFrame.from_ndarray(bar, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            if number not in dropped:
                target.mux(stream.encode(frame))
        target.mux(stream.encode())
    with av.open(str(path)) as container:
        assert bool(container.streams.video[0].codec_context.has_b_frames) is (num_b_frames > 0)
    stays = [max(k for k in range(number + 1) if k not in dropped) for number in range(25)]

    def bars(**part: float) -> list[int]:
        frames = decode_video(path, short_side=48, **part).frames_rgb_THWC  # type: ignore[arg-type]
        columns = frames.mean(axis=(1, 3)) > 100
        return [round((float(np.flatnonzero(row).mean()) - 1.5) / 2) for row in columns]

    assert bars() == stays
    assert bars(start_s=0.2, end_s=0.8) == stays[5:20]


def test_a_part_that_starts_after_any_clock_has_no_picture(make_video, gray_levels):
    for start_s in (1e6, 1e18, 1e300):
        with pytest.raises(RejectedSource, match="no_frames: no picture from"):
            shown(make_video("v.mp4", gray_levels(10)), start_s=start_s, end_s=2 * start_s)
