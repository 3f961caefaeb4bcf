"""Decoding against frames that were written losslessly and name themselves."""

from __future__ import annotations

import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RejectedSource
from preprocessing.media.decode import REASONS, VideoReader, decode_video
from preprocessing.media.resize import stored_size
from tests.support.odd_media import SHARED_REJECTS


def levels(frames: np.ndarray) -> list[int]:
    """Which frames of ``gray_levels`` these are."""
    return [round((float(f.mean()) - 3) / 5) for f in frames]


def test_every_frame_once_and_exact(make_video, gray_levels):
    frames = gray_levels(40)
    decoded = decode_video(make_video("a.mkv", frames, rate=Fraction(30000, 1001)), short_side=48)
    assert np.array_equal(decoded.frames_rgb_THWC, frames)
    assert decoded.fps == pytest.approx(
        30000 / 1001, rel=1e-6
    )  # Matroska rounds times to 1 ms: no frame may be dropped for it


def test_bytes_decode_as_the_file_does(make_video, gray_levels):
    path = make_video("a.mp4", gray_levels(12))
    a, b = decode_video(path, short_side=32), decode_video(path.read_bytes(), short_side=32)
    assert np.array_equal(a.frames_rgb_THWC, b.frames_rgb_THWC)
    assert a.fps == b.fps == 25


def test_color_order_is_rgb(make_video):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[..., 0] = 200  # red
    assert decode_video(make_video("red.mkv", frames), short_side=32).frames_rgb_THWC[1, 5, 5].tolist() == [200, 0, 0]


@pytest.mark.parametrize("name", ["p.mkv", "p.mp4"])
def test_part_of_a_file(make_video, gray_levels, name):
    path = make_video(name, gray_levels(50))  # 25 fps: frame t starts at t * 0.04 s
    assert levels(decode_video(path, short_side=48, start_s=0.6, end_s=1.0).frames_rgb_THWC) == list(range(15, 25))
    assert levels(decode_video(path, short_side=48, start_s=1.8).frames_rgb_THWC) == list(range(45, 50))
    with pytest.raises(RejectedSource, match=r"no_frames: no picture from 9"):
        decode_video(path, short_side=48, start_s=9.0, end_s=10.0)


def test_frames_come_one_at_a_time(make_video, gray_levels):
    path = make_video("long.mkv", gray_levels(50))
    with VideoReader(path, short_side=48) as video:
        frames = iter(video)
        first = [next(frames).copy() for _ in range(3)]
        assert video.decoded_frames <= 5, "decoding must not run ahead of what is asked for"
        assert video.source_size == (64, 48)
        assert video.fps == pytest.approx(25)
    assert levels(np.stack(first)) == [0, 1, 2]


def test_a_stream_that_changes_its_size_keeps_that_of_its_first_picture(tmp_path, gray_levels):
    pictures = [*gray_levels(6), *np.full((6, 48, 96, 3), 90, np.uint8)]  # a broadcast that switches to wide pictures
    with av.open(str(tmp_path / "both.mkv"), "w") as target:
        stream = target.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj444p"
        for i, picture in enumerate(pictures):
            packet = av.Packet(cv2.imencode(".jpg", picture)[1].tobytes())
            packet.pts = packet.dts = 40 * i
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 1000), stream, True
            target.mux(packet)
    frames = decode_video(tmp_path / "both.mkv", short_side=48).frames_rgb_THWC
    assert frames.shape == (12, 48, 64, 3)
    assert levels(frames[:6]) == list(range(6))
    assert np.abs(frames[6:].astype(int) - 90).mean() < 3


def test_max_frames_counts_returned_frames(make_video, gray_levels):
    path = make_video("m.mkv", gray_levels(40))
    assert levels(decode_video(path, short_side=48, max_frames=7).frames_rgb_THWC) == list(range(7))
    assert levels(decode_video(path, short_side=48, max_frames=7, fps=12.5).frames_rgb_THWC) == list(range(0, 14, 2))


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [
        ((0, 1, -1, 0), -1),
        ((-1, 0, 0, -1), 2),
        ((0, -1, 1, 0), 1),
    ],  # (a, b, c, d) of ISO 14496-12: x' = a x + c y, y' = b x + d y; y grows downwards
    ids=["clockwise", "upside_down", "counterclockwise"],
)
def test_display_matrix_is_applied(make_video, matrix, turns):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :24, :32] = 220  # bright top left quarter
    path = make_video("rot.mp4", frames)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version/flags 4, times and ids 20, reserved 8, layer/group/volume/reserved 8
    a, b, c, d = (v << 16 for v in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    decoded = decode_video(bytes(data), short_side=48).frames_rgb_THWC[0]
    expected = np.rot90(frames[0], turns)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 6


@given(w=st.integers(1, 4000), h=st.integers(1, 4000), half=st.integers(8, 256))
def test_stored_sizes_are_even_and_keep_the_shape(w, h, half):
    width, height = stored_size(w, h, 2 * half)
    assert min(width, height) == 2 * half
    assert width % 2 == height % 2 == 0
    assert (width >= height) == (w >= h) or width == height
    assert max(width, height) == pytest.approx(2 * half * max(w, h) / min(w, h), abs=1.0)


@pytest.mark.parametrize(("high", "wide"), [(60, 80), (40, 54), (48, 64), (36, 48)])
def test_shrinking_averages_all_pixels(make_video, high, wide):
    rng = np.random.default_rng(0)
    checker = (255 * (np.indices((120, 160)).sum(0) % 2)).astype(np.uint8)[..., None].repeat(3, 2)
    noise = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    flat, mixed = decode_video(make_video("c.mkv", np.stack([checker, noise])), short_side=high).frames_rgb_THWC
    assert flat.shape == (high, wide, 3)
    expected = cv2.resize(checker, (wide, high), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(flat - expected).max() <= 4  # a sampled pixel would be 0 or 255
    assert np.abs(mixed - cv2.resize(noise, (wide, high), interpolation=cv2.INTER_AREA).astype(int)).max() <= 2


def test_every_unusable_source_is_rejected_with_its_reason(make_video, gray_levels, tmp_path: Path):
    good = make_video("good.mp4", gray_levels(60)).read_bytes()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000), sound.writeframes(bytes(8000))
    damaged = bytearray(good)
    body = good.index(b"mdat") + 8
    size = len(good) - body if good.index(b"moov") < body else good.index(b"moov") - 4 - body
    noise = np.random.default_rng(0)
    damaged[body + size // 4 : body + size] = noise.bytes(size - size // 4)
    cases: dict[str, tuple[bytes | Path, set[str]]] = {
        "missing": (tmp_path / "none.mp4", {"missing"}),
        "folder": (tmp_path, {"missing"}),
        "empty": (b"", {"empty"}),
        "html": (b"<html>404 not found</html>" * 20, {"not_video"}),
        "sound": (tmp_path / "sound.wav", {"not_video"}),
        "no index": (good[: good.index(b"moov") - 4], {"not_video"}),
        "one frame": (make_video("one.mkv", gray_levels(1)), {"too_short"}),
        "a line": (make_video("line.mkv", np.zeros((4, 8, 320, 3), np.uint8)), {"bad_shape"}),
        "noise": (bytes(damaged), {"decode_error"}),
    }
    for name, (source, reasons) in cases.items():
        with pytest.raises(RejectedSource) as caught:
            decode_video(source, short_side=32)
        assert caught.value.reason in reasons, f"{name}: {caught.value}"
        assert caught.value.reason in REASONS


def test_a_file_cut_off_behind_its_index_is_truncated(make_video, gray_levels):
    path = make_video("cut.mp4", gray_levels(50))
    with (
        av.open(str(path)) as source,
        av.open(str(path.with_name("fast.mp4")), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.with_name("fast.mp4").read_bytes()
    assert len(decode_video(data, short_side=32).frames_rgb_THWC) == 50
    with pytest.raises(RejectedSource) as caught:
        decode_video(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2], short_side=32)
    assert caught.value.reason in {"truncated", "decode_error"}
    half = data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2]
    with pytest.raises(RejectedSource) as caught:  # lists that name a part of every file must not hide it
        decode_video(half, short_side=32, start_s=0.0, end_s=10.0)
    assert caught.value.reason in {"truncated", "decode_error"}
    assert (
        len(decode_video(half, short_side=32, start_s=0.0, end_s=0.2).frames_rgb_THWC) == 5
    )  # what is asked for is there
    assert len(decode_video(data, short_side=32, start_s=1.0, end_s=10.0).frames_rgb_THWC) == 25


@pytest.mark.slow
def test_every_odd_file_ends_as_frames_or_as_its_reject(real_data: Path):
    """As many frames as FFmpeg counted, in the list that comes with the files."""
    header, *lines = [line.split("\t") for line in (real_data / "MANIFEST.tsv").read_text().splitlines()]
    listed = {
        Path(row[0]).name: row[header.index("decoded_frames")]
        for row in lines
        if row[0].startswith("odd/") and len(row) == len(header)
    }
    listed["torchcodec_nasa_13013.mp4"] = "390"  # of two videos the larger is taken; the list counts the first
    # Only files with an expected number of frames; those of odd/made/ are in test_made_files.py.
    files = sorted(p for p in (real_data / "odd").rglob("*") if p.is_file() and p.name in listed)
    assert len(files) >= 40
    wrong, compared = [], 0
    for path in files:
        try:
            count = len(decode_video(path, short_side=32).frames_rgb_THWC)
        except RejectedSource as error:
            if SHARED_REJECTS.get(path.name) != error.reason:
                wrong.append(f"{path.name}: {error}")
            continue
        compared += listed[path.name].isdigit()
        if path.name in SHARED_REJECTS or (listed[path.name].isdigit() and count != int(listed[path.name])):
            wrong.append(f"{path.name}: {count} frames, listed {listed[path.name]!r}")
    assert not wrong, "\n".join(wrong)
    assert compared >= 20


def test_avi_with_pictures_out_of_order_shows_each_once(real_data: Path):
    """AVI stores only decoding times. Read as presentation times they jump back and forth, and pictures would be
    shown twice.
    """
    clips = sorted((real_data / "clips/ucf101").rglob("*.avi"))
    assert len(clips) >= 5
    for path in clips[::3]:
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
        assert len(decode_video(path, short_side=16).frames_rgb_THWC) == count, path.name


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile good.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n",
    ],
    ids=["concat", "hls"],
)
def test_a_file_that_names_another_is_no_video(make_video, gray_levels, content):
    good = make_video("good.mp4", gray_levels(12))
    (good.parent / "list.mp4").write_text(content)
    with pytest.raises(RejectedSource) as caught:
        decode_video(good.parent / "list.mp4", short_side=32)
    assert caught.value.reason == "not_video"
