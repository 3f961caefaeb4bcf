"""Orientation and shape of pictures, against the ffmpeg program's own turning and against the definition."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing.media.decode import VideoReader, decode_video
from preprocessing.media.upright import Orientation
from tests.support.ffmpeg_program import ffmpeg_program, pictures

# (a, b, c, d) of ISO 14496-12, section 6.2.2: x' = a x + c y, y' = b x + d y, y grows downwards.
STRAIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), (1, -1))]
MATRICES = [*STRAIGHT, *[(0, b, c, 0) for b, c in itertools.product((1, -1), (1, -1))]]


def corners() -> np.ndarray:
    """Three frames whose four quarters differ, so that each orientation shows another picture."""
    frames = np.full((3, 48, 64, 3), 20, np.uint8)
    frames[:, :24, :32] = 220
    frames[:, :24, 32:] = 150
    frames[:, 24:, :32] = 90
    return frames


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A copy of a video of ``make_video`` with that display matrix: patched into MP4, muxed into Matroska."""
    a, b, c, d = (value << 16 for value in matrix)
    copy = path.with_stem("turned")
    if path.suffix == ".mp4":
        data = bytearray(path.read_bytes())
        start = data.index(b"tkhd") + 4 + 40
        data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        copy.write_bytes(data)
        return copy
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return copy


def by_definition(picture_HWC: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each point moved on its own."""
    height, width = picture_HWC.shape[:2]
    a, b, c, d = matrix
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    out = np.zeros((to_y.max() + 1, to_x.max() + 1, picture_HWC.shape[2]), np.uint8)
    out[to_y, to_x] = picture_HWC
    return out


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_all_eight_orientations_are_shown_as_the_ffmpeg_program_shows_them(make_video, name, matrix):
    path = turned(make_video(name, corners()), matrix)
    with VideoReader(path, short_side=48) as video:
        shown = next(iter(video))
        assert video.source_size == (shown.shape[1], shown.shape[0])
    expected = by_definition(corners()[0], matrix)
    if ffmpeg_program():
        assert np.abs(next(pictures(path)).astype(int) - expected).mean() < 6
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_an_orientation_moves_each_point_as_its_matrix_says(matrix):
    picture = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(Orientation.of_matrix(*matrix).apply(picture), by_definition(picture, matrix))


def test_a_matrix_that_shows_nothing_is_upright_and_an_angle_in_between_goes_to_the_nearest():
    assert Orientation.of_matrix(0, 0, 0, 0) == Orientation()
    cos, sin = round(65536 * np.cos(np.radians(80))), round(65536 * np.sin(np.radians(80)))
    assert Orientation.of_matrix(cos, sin, -sin, cos) == Orientation.of_matrix(0, 1, -1, 0)


@pytest.fixture
def anamorphic(tmp_path: Path) -> Path:
    """64 x 48 coded, 128 x 48 shown: pixels are twice as wide as high."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for rgb in corners():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_square_pixels_are_stored_in_the_shape_in_which_they_are_shown(anamorphic):
    assert decode_video(anamorphic, short_side=48).frames_rgb_THWC.shape[1:3] == (48, 64)
    square = decode_video(anamorphic, short_side=48, square_pixels=True).frames_rgb_THWC
    assert square.shape[1:3] == (48, 128)
    assert np.abs(square[0, :, ::2].astype(int) - corners()[0]).mean() < 6


@pytest.mark.parametrize(("matrix", "aspect"), [((1, 0, 0, 1), Fraction(2)), ((0, 1, -1, 0), Fraction(1, 2))])
def test_the_aspect_of_a_pixel_is_that_of_the_upright_picture(anamorphic, matrix, aspect):
    with VideoReader(turned(anamorphic, matrix), short_side=48, square_pixels=True) as video:
        shown = next(iter(video))
        assert video.pixel_aspect == aspect
    assert shown.shape[1::-1] == ((128, 48) if aspect > 1 else (48, 128))
