"""Which stream of a file is its video, and at which rate a stream without a container runs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from pipeline.errors import RejectedSource
from preprocessing.media.decode import VideoReader
from tests.support.ffmpeg_program import ffmpeg_program, pictures

SMALL, LARGE, STILL = (64, 48), (96, 72), (200, 160)


def write(path: Path, *streams: tuple[tuple[int, int], int, int]) -> Path:
    """A file with a stream of every (size, number of pictures, disposition); its grey level tells which it is."""
    with av.open(str(path), "w") as target:
        made = []
        for size, count, disposition in streams:
            stream = target.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
            stream.disposition = disposition
            made.append((stream, count))
        for number, (stream, count) in enumerate(made):
            picture = np.full((stream.height, stream.width, 3), 50 + 60 * number, np.uint8)
            for _ in range(count):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            target.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([(STILL, 1, 0), (SMALL, 20, 0)], 1),
        ([(STILL, 1, Disposition.default), (SMALL, 20, 0)], 1),
        ([(STILL, 1, Disposition.attached_pic), (SMALL, 20, Disposition.default)], 1),
        ([(SMALL, 20, 0), (STILL, 1, Disposition.still_image)], 0),
        ([(SMALL, 20, 0), (LARGE, 20, 0)], 1),
        ([(LARGE, 20, 0), (SMALL, 20, Disposition.default)], 1),
        ([(SMALL, 20, Disposition.default), (LARGE, 20, Disposition.default)], 1),
        ([(SMALL, 20, 0), (SMALL, 20, 0)], 0),
    ],
    ids=["still", "default_still", "cover", "still_behind", "larger", "default", "larger_default", "first"],
)
def test_the_video_is_no_still_then_the_default_then_the_larger(tmp_path, streams, chosen):
    path = write(tmp_path / "v.mkv", *streams)
    with VideoReader(path, short_side=48) as video:
        frames = list(video)
        assert video.source_size == streams[chosen][0]
    assert len(frames) == 20
    assert frames[0].mean() == pytest.approx(50 + 60 * chosen, abs=3)


def test_the_shared_file_with_two_videos_gives_the_one_that_the_ffmpeg_program_takes(real_data: Path):
    path = real_data / "odd/real/torchcodec_nasa_13013.mp4"
    with VideoReader(path, short_side=32) as video:
        count = sum(1 for _ in video)
        assert video.source_size == (480, 270)
    if ffmpeg_program():
        assert count == sum(1 for _ in pictures(path))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2video"])
@pytest.mark.parametrize("rate", [Fraction(10), Fraction(30000, 1001), Fraction(50)])
def test_a_coded_stream_without_a_container_runs_at_its_own_rate(tmp_path, codec, rate):
    if codec == "mpeg2video" and rate == 10:
        rate = Fraction(24)  # MPEG-2 has a list of rates
    path = tmp_path / f"v.{ {'h264': 'h264', 'hevc': 'hevc', 'mpeg2video': 'm2v'}[codec] }"
    encoder = {"h264": "libx264", "hevc": "libx265", "mpeg2video": "mpeg2video"}[codec]
    with av.open(str(path), "w", format=codec) as target:
        options = {"threads": "1", "x265-params": "log-level=none:pools=1"} if codec == "hevc" else {"threads": "1"}
        stream = target.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(20):
            picture = np.full((64, 96, 3), 10 * number, np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode())
    with VideoReader(path, short_side=32) as video:
        levels = [round(float(frame.mean()) / 10) for frame in video]
        assert video.fps == pytest.approx(float(rate), rel=1e-4)
        assert not video.length_announced
    assert levels == list(range(20))


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Sound with a cover picture, flagged as such."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as target:
        sound = target.add_stream("aac", rate=8000)
        cover = target.add_stream("mjpeg", rate=25)
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = *STILL, "yuvj420p", Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((STILL[1], STILL[0], 3), 90, np.uint8), format="rgb24")
        target.mux([*cover.encode(picture), *cover.encode()])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        target.mux([*sound.encode(frame), *sound.encode()])
    return path


def test_sound_with_a_cover_is_no_video_and_the_reject_names_both(song):
    with pytest.raises(RejectedSource, match="not_video: no video among its streams: audio, cover picture"):
        VideoReader(song, short_side=32)
