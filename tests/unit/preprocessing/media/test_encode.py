"""Stored videos, read back by two independent decoders: FFmpeg (PyAV) and DALI."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from pipeline.dataset.sample import dequantise_flow, quantise_diff, quantise_flow
from preprocessing.media.encode import VideoCodec, stored_rate
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.paths import ROOT

CODEC = VideoCodec(gop=8, crf=20)


def by_ffmpeg(data: bytes, pixel_format: str) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)])


def by_dali(data: bytes) -> np.ndarray:
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph():
        return dali.fn.decoders.video(
            dali.fn.external_source(source=lambda: [np.frombuffer(data, np.uint8)], batch=True), device="cpu"
        )

    pipe = graph()
    pipe.build()
    return np.array(pipe.run()[0][0])


def moving_picture(num_frames: int = 20, height: int = 64, width: int = 96) -> np.ndarray:
    """Fine brightness, coarse colour: as camera pictures are (colour is stored at half the size)."""
    rng, size = np.random.default_rng(3), (width + 2 * num_frames, height)
    color = cv2.resize(rng.integers(40, 216, (4, 8, 3)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 20, (20, 50)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    big = np.clip(color + fine[..., None], 0, 255).astype(np.uint8)
    return np.stack([big[:, 2 * t : 2 * t + width] for t in range(num_frames)])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_same_frames_same_bytes():
    frames = moving_picture()
    assert encode_rgb(frames, 25, CODEC) == encode_rgb(frames, 25, CODEC)
    assert encode_gray(frames[..., 0], 25, CODEC) == encode_gray(frames[..., 0], 25, CODEC)


def test_container_is_what_readers_rely_on():
    data = encode_rgb(moving_picture(20), 30000 / 1001, CODEC)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        assert "vp9" in stream.codec_context.name
        assert stream.frames == 20
        assert stream.average_rate == Fraction(30000, 1001)
        assert [i for i, p in enumerate(packets) if p.is_keyframe] == [
            0,
            8,
            16,
        ]  # every gop frames, and one packet a frame
        assert len(packets) == 20
        assert "creation_time" not in container.metadata


def test_groups_are_closed():
    """A group of pictures decodes by itself to the same frames: nothing in it needs what comes before."""
    data = encode_rgb(moving_picture(20), 25, CODEC)
    whole = by_ffmpeg(data, "rgb24")
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        alone = av.CodecContext.create("vp9", "r")
        frames = [f for p in packets[8:16] for f in alone.decode(av.Packet(bytes(p)))] + alone.decode(None)
    planes = [f.to_ndarray(format="gray") for f in frames]
    assert len(planes) == 8
    assert all(np.array_equal(a, b) for a, b in zip(planes, by_ffmpeg(data, "gray")[8:16], strict=True))
    assert len(whole) == 20


@pytest.mark.parametrize("decoder", ["ffmpeg", "dali"])
@pytest.mark.parametrize("color", [(128, 128, 128), (0, 0, 0), (255, 255, 255), (200, 30, 90), (100, 200, 30)])
def test_colors_come_back(decoder, color):
    frames = np.broadcast_to(np.array(color, np.uint8), (3, 32, 32, 3)).copy()
    data = encode_rgb(frames, 25, CODEC)
    back = by_ffmpeg(data, "rgb24") if decoder == "ffmpeg" else by_dali(data)
    assert np.abs(back[1:].astype(int) - frames[1:]).max() <= 3  # 8-bit YCbCr has fewer colours than RGB


def test_colour_video_of_both_decoders():
    frames = moving_picture()
    data = encode_rgb(frames, 25, CODEC)
    ffmpeg, dali = by_ffmpeg(data, "rgb24"), by_dali(data)
    figures = {"ffmpeg": psnr(ffmpeg, frames), "dali": psnr(dali, frames), "each other": psnr(ffmpeg, dali)}
    assert ffmpeg.shape == dali.shape == frames.shape
    assert min(figures.values()) > 36, figures


def test_codes_come_back_over_the_whole_range():
    ramp = np.broadcast_to(np.linspace(0, 255, 256).round().astype(np.uint8), (64, 256))
    codes = np.stack([np.roll(ramp, 8 * t, axis=1) for t in range(4)])
    data = encode_gray(codes, 25, VideoCodec(gop=1, crf=4))
    ffmpeg, dali = by_ffmpeg(data, "gray").astype(int), by_dali(data).astype(int)
    smooth = np.abs(np.gradient(codes.astype(float), axis=2)) < 2  # away from the jump from 255 to 0
    assert np.abs(ffmpeg - codes)[smooth].max() <= 4
    assert abs((ffmpeg - codes).mean()) < 0.5
    assert ffmpeg.min() <= 2
    assert ffmpeg.max() >= 253
    assert np.abs(dali - ffmpeg[..., None]).max() <= 3, "DALI's grey differs from FFmpeg's"
    assert np.ptp(dali, axis=-1).max() <= 3, "DALI's three channels differ"


def test_flow_survives_storage():
    """Displacements of a rotating, zooming plane: quantiser and VP9 together, in pixels."""
    y, x = np.mgrid[-32:32, -48:48].astype(np.float32)
    flow = np.stack(
        [np.stack([0.03 * x - 0.05 * y * s, 0.05 * x * s + 0.03 * y]) for s in np.linspace(-1, 1, 16)]
    ).astype(np.float32)
    codes = quantise_flow(flow)
    data = encode_gray(codes, 25, VideoCodec())
    step = 40 / 255
    for name, back in (("ffmpeg", by_ffmpeg(data, "gray")), ("dali", by_dali(data)[..., 0])):
        error = np.abs(dequantise_flow(back) - flow)
        assert error.mean() < 0.6 * step, f"{name}: mean {error.mean():.3f} px"
        assert abs((dequantise_flow(back) - flow).mean()) < 0.3 * step, f"{name}: bias"
    assert np.abs(dequantise_flow(codes) - flow).max() <= step / 2 + 1e-5  # only the quantiser


def test_no_difference_stays_none():
    frames = np.repeat(moving_picture(1), 5, axis=0)
    back = by_ffmpeg(encode_rgb(quantise_diff(frames), 25, CODEC), "rgb24")
    assert np.abs(back.astype(int) - 128).max() <= 1


def test_rates_and_wrong_input():
    assert stored_rate(29.97002997) == Fraction(30000, 1001)
    assert stored_rate(25.0) == 25
    with pytest.raises(ValueError, match=r"even width and height, got \(16, 15\)"):
        encode_rgb(np.zeros((2, 15, 16, 3), np.uint8), 25, CODEC)
    with pytest.raises(ValueError, match=r"got float64 \(2, 16, 16\)"):
        encode_gray(np.zeros((2, 16, 16)), 25, CODEC)


@pytest.mark.parametrize("limit", [0, 20_000], ids=["from the start", "on the way"])
def test_a_full_disk_is_an_error_and_no_crash(tmp_path, limit):
    """Blocks of pictures may follow the one that failed; FFmpeg's own writer takes the process down then, and a
    video would be blamed.
    """
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from preprocessing.media.encode import VideoCodec, VideoWriter

target, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
else:
    target.symlink_to("/dev/full")
writer = VideoWriter(target, "rgb", (64, 64), 25.0, VideoCodec())
pictures = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
for step in [lambda: writer.write(pictures)] * 4 + [writer.close, writer.abandon]:
    try:
        step()
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.mp4"), str(limit)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {str(errno.EFBIG if limit else errno.ENOSPC)}
    assert len(done.stdout.split()) >= 3
