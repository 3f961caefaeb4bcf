"""Frame numbers, against the ffmpeg program: every picture carries its number in drawn bits.

FFmpeg decodes the whole file from its start and writes all frames; whatever a decoder of ours delivers for frame n must
be its n-th picture.
"""

from __future__ import annotations

import io
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config.data import ClipConfig
from pipeline.data.decoding import videos
from pipeline.data.decoding.ffmpeg import FFmpegDecoder
from pipeline.data.decoding.mp4 import read_track
from pipeline.data.decoding.reference import decode_frames
from pipeline.data.decoding.reference_decoder import ReferenceDecoder
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan, sample_plans
from pipeline.errors import ReciprocalError
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.ffmpeg_program import ffmpeg_program, run_ffmpeg

BITS, SIDE = 7, 32  # numbers to 127, in blocks of 32 pixels: no codec blurs them
WIDTH, HEIGHT = BITS * SIDE, 64


def numbered(count: int, height: int = HEIGHT) -> np.ndarray:
    """(count, height, WIDTH) uint8: block k of picture n is bright where bit k of n is 1; the lower half says the
    opposite.
    """
    bits = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
    row = np.repeat(np.where(bits, 200, 50), SIDE, 1)
    half = height // 2
    return np.concatenate([np.repeat(row[:, None], half, 1), np.repeat(250 - row[:, None], half, 1)], 1).astype(
        np.uint8
    )


def numbers(pictures: np.ndarray) -> list[int]:
    """Numbers of (..., H, W) pictures, both halves agreeing."""
    found = []
    for picture in pictures.reshape(-1, *pictures.shape[-2:]):
        half = picture.shape[0] // 2
        upper, lower = (part.reshape(half, BITS, -1).mean((0, 2)) for part in (picture[:half], picture[half:]))
        assert ((upper > 125) != (lower > 125)).all()
        found.append(int(((upper > 125) << np.arange(BITS)).sum()))
    return found


def golden(video: bytes, folder: Path, suffix: str = "mp4", height: int = HEIGHT) -> np.ndarray:
    """All frames of a video as grey pictures, by the ffmpeg program; by plain PyAV where there is no such program."""
    if program := ffmpeg_program():
        path = folder / f"v.{suffix}"
        path.write_bytes(video)
        raw = subprocess.run(
            [
                program,
                "-v",
                "error",
                "-i",
                str(path),
                "-vf",
                "extractplanes=y",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "gray",
                "-fps_mode",
                "passthrough",
                "-",
            ],
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, height, WIDTH)
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="yuv420p")[:height] for frame in container.decode(video=0)])


def take_luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width].copy()


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    """50 frames of rgb, 49 of flow and diff, keyframes at 0, 16, 32, 48."""
    pictures = numbered(50)
    colour = np.repeat(pictures[..., None], 3, -1)
    flow = np.concatenate([pictures[:-1], pictures[:-1]], 1)
    return {
        "rgb": encode_rgb(colour, 25.0, VideoCodec()),
        "flow": encode_gray(flow, 25.0, VideoCodec()),
        "diff": encode_rgb(colour[:-1], 25.0, VideoCodec()),
    }


# First and last frames, across keyframes, strides, repeats at the end of a short clip.
WANTED = [
    (0,),
    (49,),
    (0, 49),
    (14, 15, 16, 17),
    (31, 32, 33),
    (3, 20, 37),
    (0, 10, 20, 30, 40),
    (47, 48, 49, 49, 49),
    (16,),
    (15,),
    (48,),
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_stored_frames_are_ffmpegs(stored: dict[str, bytes], tmp_path: Path, wanted: tuple[int, ...]) -> None:
    everything = golden(stored["rgb"], tmp_path)
    assert numbers(everything) == list(range(50))
    found = np.stack(videos.read_frames(stored["rgb"], wanted, take_luma, "rgb"))
    np.testing.assert_array_equal(found, everything[list(wanted)])
    assert numbers(decode_frames(stored["rgb"], "rgb", wanted)[..., 1]) == list(wanted)
    motion = [n for n in wanted if n < 49]
    if motion:
        codes = decode_frames(stored["flow"], "flow", motion)
        np.testing.assert_array_equal(codes, golden(stored["flow"], tmp_path, height=2 * HEIGHT)[motion])


def decoders(modalities: tuple[str, ...], clip: ClipConfig, rows: int) -> dict[str, object]:
    made: dict[str, object] = {
        "reference": ReferenceDecoder(modalities, clip, 20.0),
        "ffmpeg": FFmpegDecoder(modalities, clip, 20.0),
    }
    try:
        from pipeline.data.decoding.dali import DaliDecoder
    except ImportError:
        return made
    return {**made, "dali": DaliDecoder(modalities, clip, 20.0, max_rows=rows, threads=1)}


@pytest.mark.parametrize(("num_frames", "stride", "stack"), [(6, 1, 1), (5, 4, 1), (4, 3, 5), (12, 5, 2)])
@pytest.mark.slow
def test_every_backend_delivers_the_planned_frames(
    stored: dict[str, bytes], num_frames: int, stride: int, stack: int
) -> None:
    clip = ClipConfig(
        num_frames=num_frames, stride=stride, stack=stack, crop=SIDE * BITS, norm="inception", flow_std=1.0
    )
    plans = [
        sample_plans("k", 50, HEIGHT, WIDTH, clip, ("rgb", "flow"), train=True, seed=0, epoch=e)[0] for e in range(3)
    ]
    plans += sample_plans("k", 50, HEIGHT, WIDTH, clip, ("rgb", "flow"), train=False, seed=0, epoch=0, num_views=2)
    whole = Box(0, 0, HEIGHT, WIDTH)
    rows = [(stored, ClipPlan(p.rgb_frames, p.motion_window, whole, False), (HEIGHT, WIDTH)) for p in plans]
    for name, decoder in decoders(("rgb", "flow", "diff"), clip, len(rows)).items():
        out = decoder.decode(rows)  # type: ignore[attr-defined]
        rgb = (out["rgb"][:, :, 1].numpy() + 1) * 127.5
        diff = out["diff"][:, :, 1].numpy() * 127.5 + 128
        u, v = ((out["flow"][:, :, c].numpy() + 20) * 255 / 40 for c in (0, 1))
        for row, plan in enumerate(plans):
            assert numbers(rgb[row]) == list(plan.rgb_frames), name
            for motion in (diff, u, v):
                assert numbers(motion[row]) == list(plan.motion_window), name
        decoder.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_frames", [2, 3, 9])
def test_short_clips_repeat_their_last_frame(num_frames: int) -> None:
    colour = np.repeat(numbered(num_frames)[..., None], 3, -1)
    members = {"rgb": encode_rgb(colour, 25.0, VideoCodec()), "diff": encode_rgb(colour[:-1], 25.0, VideoCodec())}
    clip = ClipConfig(num_frames=6, stride=2, stack=2, crop=WIDTH, norm="inception")
    (plan,) = sample_plans("k", num_frames, HEIGHT, WIDTH, clip, ("rgb", "flow"), train=True, seed=0, epoch=0)
    row = (members, ClipPlan(plan.rgb_frames, plan.motion_window, Box(0, 0, HEIGHT, WIDTH), False), (HEIGHT, WIDTH))
    for name, decoder in decoders(("rgb", "diff"), clip, 1).items():
        out = decoder.decode([row])  # type: ignore[attr-defined]
        assert numbers((out["rgb"][0, :, 1].numpy() + 1) * 127.5) == [min(2 * t, num_frames - 1) for t in range(6)], (
            name
        )
        assert numbers(out["diff"][0, :, 1].numpy() * 127.5 + 128)[-1] == num_frames - 2, name
        decoder.close()  # type: ignore[attr-defined]


def other(codec: str, options: dict[str, str], kind: str, count: int = 40, start: int = 0) -> bytes:
    """The numbered pictures in another codec and container; times begin at ``start``."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for n, picture in enumerate(numbered(count)):
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, -1), format="rgb24")
            frame.pts, frame.time_base = n + start, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


B_FRAMES = {"g": "12", "bf": "3", "x264-params": "scenecut=0:b-adapt=0:threads=1", "preset": "veryfast"}
OTHERS = {
    "h264 with B-frames": ("libx264", B_FRAMES, "mp4", 0),
    "h264 with open groups": (
        "libx264",
        {**B_FRAMES, "x264-params": "scenecut=0:b-adapt=0:open-gop=1:threads=1"},
        "mp4",
        0,
    ),
    "h264 that starts late": ("libx264", B_FRAMES, "mp4", 7),
    "h264 in Matroska": ("libx264", B_FRAMES, "matroska", 0),
    "h264 in fragments": ("libx264", B_FRAMES, "ismv", 0),
    "h264 as a bare stream, without times": ("libx264", {**B_FRAMES, "bf": "0"}, "h264", 0),
    "mpeg4 in AVI, without times of display": ("mpeg4", {"g": "10", "bf": "2"}, "avi", 0),
    "motion JPEG": ("mjpeg", {"strict": "unofficial", "q": "2"}, "avi", 0),
    "vp9 with hidden frames": (
        "libvpx-vp9",
        {
            "g": "16",
            "lag-in-frames": "16",
            "auto-alt-ref": "1",
            "b": "0",
            "crf": "20",
            "deadline": "good",
            "cpu-used": "5",
        },
        "mp4",
        0,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_too(name: str, tmp_path: Path) -> None:
    codec, options, kind, start = OTHERS[name]
    video = other(codec, options, kind, start=start)
    everything = golden(video, tmp_path, {"matroska": "mkv"}.get(kind, kind))
    assert numbers(everything) == list(range(40))
    for wanted in [(0,), (39,), (11, 12, 13), (23, 24, 25), (5, 18, 31), tuple(range(40)), (13, 13, 14), (38, 39)]:
        found = np.stack(videos.read_frames(video, wanted, take_luma, "rgb"))
        np.testing.assert_array_equal(found, everything[list(wanted)], err_msg=f"{name}: {wanted}")


def test_an_edit_list_hides_what_stands_before_it(tmp_path: Path) -> None:
    """A file cut without re-encoding holds frames before its first one; they have no number."""
    if ffmpeg_program() is None:
        pytest.skip("the ffmpeg program makes this file: install the package imageio-ffmpeg, which make setup does")
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    whole.write_bytes(other("libx264", B_FRAMES, "mp4"))
    run_ffmpeg("-ss", "0.6", "-i", whole, "-c", "copy", cut)
    everything = golden(cut.read_bytes(), tmp_path)
    shown = numbers(everything)
    assert shown[0] == 15
    for wanted in [(0,), (1, 2), (10, 11), (len(shown) - 1,)]:
        found = np.stack(videos.read_frames(cut.read_bytes(), wanted, take_luma, "rgb"))
        assert numbers(found) == [shown[n] for n in wanted]


def test_decoding_starts_at_the_keyframe_before(stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = videos._take

    def counted(frames, *rest):
        return whole((seen.append(1) or frame for frame in frames), *rest)

    monkeypatch.setattr(videos, "_take", counted)
    for wanted, most in (((34, 35), 4), ((16,), 1), ((48, 49), 2), ((0,), 1)):
        for reader in (videos.read_frames, lambda v, w, t, what: videos._by_container(v, set(w), t)):
            seen.clear()
            reader(stored["rgb"], wanted, take_luma, "rgb")
            assert len(seen) == most, f"{wanted}: {len(seen)} frames were decoded"


def test_the_table_of_an_mp4_is_libavformats(stored: dict[str, bytes]) -> None:
    for video in stored.values():
        track = read_track(video)
        assert track is not None
        with av.open(io.BytesIO(video)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
        assert [(p.pos, p.size) for p in packets] == list(zip(track.offsets, track.sizes, strict=True))
        assert [n for n, p in enumerate(packets) if p.is_keyframe] == track.keyframes.tolist()


def test_a_damaged_or_foreign_table_is_left_to_libavformat(stored: dict[str, bytes]) -> None:
    video = stored["rgb"]
    assert read_track(other("libx264", B_FRAMES, "mp4")) is None
    for junk in (b"", b"\0" * 64, video[:1000], video[-1000:], b"\xff" * 4096):
        assert read_track(junk) is None
    at = video.index(b"stbl")
    for offset in range(
        at, min(at + 700, len(video)), 3
    ):  # any byte of the table may be wrong: no crash, no reading outside
        broken = bytearray(video)
        broken[offset] ^= 0xFF
        track = read_track(bytes(broken))
        if track is not None:
            assert track.offsets.min() >= 0
            assert (track.offsets + track.sizes).max() <= len(video)


def test_what_cannot_be_decoded_is_named(stored: dict[str, bytes]) -> None:
    with pytest.raises(ReciprocalError, match="rgb video has no frame 50"):
        videos.read_frames(stored["rgb"], (49, 50), take_luma, "rgb")
    with pytest.raises(ReciprocalError, match="cannot decode this flow video"):
        videos.read_frames(b"no video at all", (0,), take_luma, "flow")
