"""Videos that are odd in ways the shared files are not."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NAMES = (
    "name with spaces.mp4",
    "quotes ' and \".mp4",
    "-leading-dash.mp4",
    "ünïcode 日本.mp4",
    "dots.in..the.name.mp4",
    "new\nline.mp4",
    "percent%20%03d%n.mp4",
    "back\\slash.mp4",
    "[brackets] {braces} $HOME `x` *?.mp4",
    "concat:a|b.mp4",
    "comma, semicolon; tab\t.mp4",
    "n" * 230 + ".mp4",
)
NOT_UTF8 = os.fsdecode(b"latin1-\xe9\xff.mp4")

# Why each of the shared files ends as it does; those that are not here are samples.
SHARED_REJECTS = {
    "audio_only.mp4": "not_video",
    "extreme_aspect_320x8.mp4": "bad_shape",
    "html_error_page_named.mp4": "not_video",
    "midstream_bitflips.mp4": "decode_error",  # a good part of its packets do not decode
    "one_frame.mp4": "too_short",
    "truncated_no_moov.mp4": "not_video",  # the index is behind the cut: there is nothing to start from
    "zero_bytes.mp4": "empty",
    "zero_frames_init_segment_only.mp4": "no_frames",
    "cut50.flv": "truncated",
    "cut50_duration_known.mkv": "truncated",
    "mmaction2_test.wav": "not_video",
    "mp4parse_bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp": "too_short",
    "mp4parse_hevc_white_frame.mp4": "too_short",
    "mp4parse_metadata.mp4": "too_short",
    "mp4parse_no_timescale.mp4": "decode_error",
    "mp4parse_sine-3s-xhe-aac-44khz-mono.mp4": "not_video",
    "mp4parse_tiny_av1.mp4": "too_short",
    "mp4parse_chunk_out_of_range.mp4": "not_video",
    "mp4parse_zero_empty_stsc.mp4": "truncated",  # two pictures are left of 41 s
}


def moving(count: int, width: int = 96, height: int = 64, *, speed: float = 3.0) -> Iterator[np.ndarray]:
    """Pictures of a coloured pattern that moves: each differs from each other one."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for t in range(count):
        red = 127 + 90 * np.sin((x + speed * t) * (6.3 / 32))
        green = 127 + 90 * np.sin((y - speed * t / 2) * (6.3 / 24) + 1)
        blue = np.full_like(red, 40 + 175 * (t % 97) / 97)
        yield np.stack([red, green, blue], -1).astype(np.uint8)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    ticks: Iterable[int] | None = None,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    bit_rate: int = 0,
) -> Path:
    """Encode RGB pictures with one thread; ``ticks`` gives each its time in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = None if ticks is None else iter(ticks)
    with av.open(str(path.absolute()), "w", format=container_format) as container:
        stream = None
        for rgb in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
                stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], pix_fmt
                if bit_rate:
                    stream.bit_rate = bit_rate
                if times is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = next(times), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode())
    return path


def with_vp9_size(video: bytes, width: int, height: int) -> bytes:
    """A VP9 video whose keyframes announce another size: the rest of each is then damage, after memory was taken."""
    out, at = bytearray(video), 0
    while (at := video.find(b"\x49\x83\x42", at) + 3) > 2:  # the sync code, then 4 bits of colour and 2 x 16 of size
        word = int.from_bytes(video[at : at + 5], "big")
        word = word & 0xF00000000F | ((width - 1) << 16 | (height - 1)) << 4
        out[at : at + 5] = word.to_bytes(5, "big")
    return bytes(out)


def generated(folder: Path) -> dict[str, str]:
    """Write odd files into ``folder``; name to what must become of it: ``sample``, or the reason of its reject."""
    fast = {"preset": "ultrafast", "crf": "12"}
    good = write_video(folder / NAMES[0], moving(10), options=fast)
    expected = {name: "sample" for name in (*NAMES, NOT_UTF8)}
    for name in (*NAMES[1:], NOT_UTF8):
        shutil.copyfile(good, folder / name)

    def made(name: str, outcome: str, frames: Iterable[np.ndarray], **how) -> None:
        write_video(
            folder / name, frames, **{"options": fast if how.get("codec", "libx264") == "libx264" else None, **how}
        )
        expected[name] = outcome

    made("uhd_3840x2160.mp4", "sample", (np.tile(f, (45, 60, 1))[:2160, :3840] for f in moving(5, 64, 48)))
    made("gray.mkv", "sample", moving(8), codec="ffv1", pix_fmt="gray")
    made("alpha.mkv", "sample", moving(8), codec="ffv1", pix_fmt="bgra")
    made("rgb48.mkv", "sample", moving(6), codec="ffv1", pix_fmt="gbrp16le")
    flat = (
        np.broadcast_to(np.array(colour, np.uint8), (64, 96, 3))
        for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
    )
    made("animated.gif", "sample", flat, codec="gif", pix_fmt="rgb8", rate=10)
    made("mpeg2_with_b_frames.mpg", "sample", moving(20), codec="mpeg2video", options={"bf": "2", "b": "4M"})
    made("starts_late.mkv", "sample", moving(12), codec="ffv1", pix_fmt="bgr0", ticks=range(50_000, 50_480, 40))
    made("two_frames.mkv", "sample", moving(2), codec="ffv1", pix_fmt="bgr0")
    made(
        "a_day_between_two_frames.mkv",
        "bad_clock",
        moving(30),
        codec="ffv1",
        pix_fmt="bgr0",
        ticks=[*range(0, 29 * 40, 40), 86_400_000],
    )
    made("one_frame_a_minute.mkv", "bad_clock", moving(3), codec="ffv1", pix_fmt="bgr0", ticks=[0, 60_000, 120_000])
    made("tall_32x640.mkv", "bad_shape", moving(4, 32, 640), codec="ffv1", pix_fmt="bgr0")
    made("picture.png", "too_short", moving(1), codec="png", pix_fmt="rgb24", container_format="image2")

    parts = [io.BytesIO(), io.BytesIO()]
    for part, (width, height) in zip(parts, ((96, 64), (64, 96)), strict=True):
        path = write_video(
            folder / "part.ts", moving(12, width, height), options={**fast, "bf": "0"}, container_format="mpegts"
        )
        part.write(path.read_bytes())
        path.unlink()
    (folder / "size_changes.ts").write_bytes(parts[0].getvalue() + parts[1].getvalue())
    expected["size_changes.ts"] = "sample"

    noise = np.random.default_rng(0).bytes(300_000)
    texts = {
        "text.avi": b"hello\n" * 500,
        "noise.mp4": noise,
        "zip.mp4": b"PK\3\4" + noise[:5000],
        "header_then_noise.mp4": good.read_bytes()[:200] + noise,
        # Formats of FFmpeg that name other files or addresses: nothing but the file itself may be read.
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "session.sdp": (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96"
            b" H264/90000\n"
        ),
        "concat.mp4": b"ffconcat version 1.0\nfile uhd_3840x2160.mp4\n",
        "concat_outside.mp4": b"ffconcat version 1.0\nfile ../../secret.mp4\n",
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
        expected[name] = "not_video"
    return expected
