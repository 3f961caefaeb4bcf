"""The shared files of ``odd/made``: each right value is that of the README beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RejectedSource
from preprocessing.media.decode import VideoReader

PICTURES = {
    "kinetics_style_ss13_t10_copy.mp4": 252,
    "elst_preroll_6s_visible_2s.mp4": 62,
    "elst_empty_edit_1500ms.mp4": 90,
    "hflip.mp4": 90,
    "transpose.mp4": 90,
    "avi_half_null_frames.avi": 45,
    "h264_bframes_in.avi": 90,
    "still_first_not_attached.mkv": 90,
    "two_streams_second_default.mkv": 90,
    "vfr_30_then_15.mp4": 135,
    "ts_pts_wrap.ts": 90,
    "neg_ts.mkv": 90,
    "cut50_duration_known.mkv": "truncated",
    "cut50.flv": "truncated",
    "vfr_30_then_15.mp4#2.5-5": 45,
    "ts_pts_wrap.ts#1-2": 30,
    "neg_ts.mkv#1-2": 28,
    "kinetics_style_ss13_t10_copy.mp4#1-4": 75,
    "kinetics_style_ss13_t10_copy.mp4#8-20": 52,
    "elst_empty_edit_1500ms.mp4#1-3": 45,  # sound starts at 0: the picture comes at 1.5 s
}
FPS = {"avi_half_null_frames.avi": 15, "h264_bframes_in.avi": 30, "kinetics_style_ss13_t10_copy.mp4": 25}


def reader(made: Path, name: str) -> VideoReader:
    """A reader of NAME or NAME#START-END."""
    file, _, part = name.partition("#")
    start_s, end_s = (float(second) for second in part.split("-")) if part else (None, None)
    return VideoReader(made / file, short_side=32, start_s=start_s, end_s=end_s)


@pytest.mark.parametrize("name", PICTURES)
def test_a_made_file_gives_its_right_number_of_pictures(real_data: Path, name: str):
    if isinstance(PICTURES[name], str):
        with pytest.raises(RejectedSource, match=f"{PICTURES[name]}: "):
            sum(1 for _ in reader(real_data / "odd/made", name))
        return
    with reader(real_data / "odd/made", name) as video:
        shown = sum(1 for _ in video)
        assert video.decoded_frames == PICTURES[name]
        assert shown == PICTURES[name]
        assert video.fps == pytest.approx(FPS.get(name, video.fps))


@pytest.mark.parametrize("part", [{}, {"start_s": 1.0, "end_s": 4.0}], ids=["whole", "part"])
def test_prediction_which_has_only_bytes_sees_the_same_pictures(real_data: Path, part: dict[str, float]):
    path = real_data / "odd/made/kinetics_style_ss13_t10_copy.mp4"
    read = [np.stack(list(VideoReader(source, short_side=32, **part))) for source in (path, path.read_bytes())]
    assert np.array_equal(*read)


def test_every_made_file_is_tested(real_data: Path):
    files = {path.name for path in (real_data / "odd/made").iterdir()} - {"README.md"}
    assert files == {name.partition("#")[0] for name in PICTURES}


def test_a_cut_by_copy_shows_the_last_pictures_of_what_is_stored(real_data: Path):
    """An edit list hides the pictures between the keyframe and the cut; those left are the last 62 of 242."""
    path = real_data / "odd/made/elst_preroll_6s_visible_2s.mp4"
    with VideoReader(path, short_side=48) as video:
        cut = np.stack(list(video))
    data = path.read_bytes().replace(b"edts", b"free")  # without its edit list the file shows everything
    with VideoReader(data, short_side=48) as video:
        whole = np.stack(list(video))
    assert len(whole) == 242
    assert np.array_equal(cut, whole[-62:])


def test_the_rejects_detail_says_how_much_of_the_file_is_there(real_data: Path):
    with pytest.raises(RejectedSource, match=r"truncated: 49% of the announced 3\.00 s: 44 pictures"):
        sum(1 for _ in reader(real_data / "odd/made", "cut50_duration_known.mkv"))
