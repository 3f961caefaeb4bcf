"""Picture files to frames, against Pillow's reading of the same files."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.errors import RejectedSource
from preprocessing.media.decode import REASONS, VideoReader
from preprocessing.media.exif import exif_orientation
from preprocessing.media.still import PictureReader
from preprocessing.media.upright import Orientation

HEIGHT, WIDTH = 90, 120
ORIENTATION = 0x0112


def scene() -> Image.Image:
    """Smooth colours, none of whose quarters is like another."""
    noise = np.random.default_rng(0).uniform(-200, 450, (HEIGHT, WIDTH, 3))
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 6).clip(0, 255).astype(np.uint8))


def packed(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def half_clear(picture: Image.Image) -> Image.Image:
    """Left clear, middle half so, right opaque."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, 40:80], alpha[:, 80:] = 128, 255
    made = picture.convert("RGBA")
    made.putalpha(Image.fromarray(alpha))
    return made


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


FILES = {
    "a.JPEG": (packed(scene(), "JPEG", quality=95, subsampling=0), 0.5),
    "halved-chroma.jpg": (packed(scene(), "JPEG", quality=95), 1.5),
    "progressive.jpg": (packed(scene(), "JPEG", quality=95, progressive=True), 1.5),
    "grey.jpg": (packed(scene().convert("L"), "JPEG", quality=95), 0.5),
    "cmyk.jpg": (packed(scene().convert("CMYK"), "JPEG", quality=95), 1.5),
    "two-views.jpg": (packed(scene(), "MPO", save_all=True, append_images=[scene().rotate(180)]), 1.5),
    "density.jpg": (packed(scene(), "JPEG", quality=95, subsampling=0, dpi=(72, 300)), 0.5),
    "a.png": (packed(scene(), "PNG"), 0),
    "named-wrongly.JPEG": (packed(scene(), "PNG"), 0),  # ImageNet has one
    "with-a-tail.png": (packed(scene(), "PNG") + b"\0tail", 0),
    "palette.png": (packed(scene().quantize(64), "PNG"), 0),
    "clear-colour.png": (packed(scene().quantize(16), "PNG", transparency=3), 0),
    "clear.png": (packed(half_clear(scene()), "PNG"), 0.01),
    "grey-clear.png": (packed(half_clear(scene()).convert("LA"), "PNG"), 0.01),
    "black-and-white.png": (packed(scene().convert("1"), "PNG"), 0),
    "a.webp": (packed(scene(), "WEBP", quality=95), 2),
    "lossless.webp": (packed(scene(), "WEBP", lossless=True), 0),
    "clear.webp": (packed(half_clear(scene()), "WEBP", lossless=True, exact=True), 0.01),
}
"""Name -> content, and the mean difference to Pillow that is allowed: codecs convert chroma each in its own way."""


def by_pillow(data: bytes) -> np.ndarray:
    """Upright, what is clear on white."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB")).astype(int)


def read(path: Path, data: bytes, short_side: int = HEIGHT) -> tuple[np.ndarray, PictureReader]:
    path.write_bytes(data)
    with PictureReader(path, short_side=short_side) as reader:
        (frame,) = reader
    assert frame.dtype == np.uint8
    return frame, reader


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_those_that_pillow_reads(tmp_path: Path, name: str) -> None:
    data, allowed = FILES[name]
    frame, reader = read(tmp_path / name, data)
    expected = by_pillow(data)
    assert frame.shape == expected.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(frame - expected).mean() <= allowed
    assert (reader.source_size, reader.decoded_frames, reader.fps) == ((WIDTH, HEIGHT), 1, 1.0)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_all_eight_orientations_of_exif_are_upright(tmp_path: Path, value: int, kind: str, options: dict) -> None:
    data = packed(scene(), kind, exif=turned(value), **options)
    frame, reader = read(tmp_path / "picture", data)
    expected = by_pillow(data)
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).mean() < 1.5
    assert reader.source_size == (expected.shape[1], expected.shape[0])


def test_clear_pictures_are_turned_too(tmp_path: Path) -> None:
    data = packed(half_clear(scene()), "PNG", exif=turned(6))
    frame, _ = read(tmp_path / "picture", data)
    assert np.abs(frame - by_pillow(data)).mean() <= 0.01


@pytest.mark.parametrize("depth", ["grey", "colour"])
def test_16_bits_are_rounded_to_8(tmp_path: Path, depth: str) -> None:
    wide = np.asarray(scene()).astype(np.uint16) * 257
    shown = wide[..., 0] if depth == "grey" else wide[..., ::-1]
    frame, _ = read(tmp_path / "a.png", cv2.imencode(".png", shown)[1].tobytes())
    expected = np.repeat(wide[..., :1], 3, 2) if depth == "grey" else wide
    assert np.abs(frame.astype(int) - expected // 257).max() <= 1


def test_a_large_picture_is_averaged_to_the_stored_size(tmp_path: Path) -> None:
    large = scene().resize((WIDTH * 4 + 1, HEIGHT * 4), Image.Resampling.BICUBIC)
    frame, reader = read(tmp_path / "a.png", packed(large, "PNG"), short_side=32)
    assert frame.shape == (32, 42, 3)  # the long side is even
    assert reader.source_size == large.size
    expected = np.asarray(large.resize((42, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(frame - expected).mean() < 1
    enlarged, _ = read(tmp_path / "a.png", packed(scene(), "PNG"), short_side=180)
    assert enlarged.shape == (180, 240, 3)


JPG, PNG, WEBP = FILES["a.JPEG"][0], FILES["a.png"][0], FILES["lossless.webp"][0]
MOVED = [scene().rotate(90)]
REJECTED = {
    "gone": (None, "missing"),
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"<html>404</html>", "not_picture"),
    "moving.png": (packed(scene(), "PNG", save_all=True, append_images=MOVED), "not_picture"),
    "moving.webp": (packed(scene(), "WEBP", save_all=True, append_images=MOVED), "not_picture"),
    "a.gif": (packed(scene(), "GIF"), "not_picture"),
    "bitmap.jpg": (packed(scene(), "BMP"), "not_picture"),
    "header.jpg": (JPG[:20], "decode_error"),
    "cut.jpg": (JPG[: len(JPG) * 9 // 10], "truncated"),
    "damaged.jpg": (JPG[: len(JPG) // 2] + JPG[-2:], "decode_error"),
    "cut-progressive.jpg": (FILES["progressive.jpg"][0][:-40], "truncated"),
    "cut.png": (PNG[:-30], "decode_error"),
    "cut.webp": (WEBP[: len(WEBP) // 2], "decode_error"),
    "flipped.png": (PNG[:5000] + bytes([PNG[5000] ^ 1]) + PNG[5001:], "decode_error"),
    "huge.png": (packed(Image.new("1", (70_000, 2_000)), "PNG"), "too_large"),
    "huge.jpg": (packed(Image.new("L", (30_000, 2_300)), "JPEG"), "too_large"),
    "wide.png": (packed(Image.new("L", (300, 20)), "PNG"), "bad_shape"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_whole_picture_is_rejected_with_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = REJECTED[name]
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(RejectedSource) as caught:
        list(PictureReader(path, short_side=32))
    assert caught.value.reason == reason in REASONS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_turns_nothing_and_breaks_nothing(kind: str) -> None:
    exif = turned(6)
    data = packed(Image.new("RGB", (8, 8)), kind, exif=exif)
    assert exif_orientation(data) == Orientation(True, True, False)
    for end in range(len(data)):
        assert exif_orientation(data[:end]) in (Orientation(), Orientation(True, True, False))
    start = data.index(exif.tobytes()[6:14])
    for at in range(start, start + 30):
        for value in (0, 1, 0x7F, 0xFF):
            exif_orientation(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize(("value", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_video_whose_pictures_have_exif_is_read(tmp_path: Path, value: int, turns: int) -> None:
    """Motion JPEG of a camera: kinds of side data that PyAV does not know must not break a task."""
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number in range(3):
            packet = av.Packet(packed(scene(), "JPEG", quality=95, exif=turned(value)))
            packet.pts = packet.dts = number
            packet.stream, packet.is_keyframe = stream, True
            container.mux(packet)
    with VideoReader(path, short_side=HEIGHT) as video:
        frames = list(video)
    expected = np.rot90(np.asarray(scene()), turns).astype(int)
    assert len(frames) == 3
    assert frames[0].shape == expected.shape
    assert np.abs(frames[0] - expected).mean() < 2
