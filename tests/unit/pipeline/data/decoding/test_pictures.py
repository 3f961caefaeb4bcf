"""The size of stored pictures is compared with the record before anything is decoded: the oracle is FFmpeg."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from pipeline.common.media import WrongPictureSize
from pipeline.data.decoding.mp4 import read_track
from pipeline.data.decoding.pictures import check_member
from pipeline.data.decoding.vp9 import other_size, packet_sizes
from pipeline.errors import ReciprocalError
from tests.support.memory import peak_growth_mb
from tests.support.odd_media import moving, with_vp9_size

OPTIONS = {
    "usual": {"g": "8", "lag-in-frames": "0", "deadline": "realtime", "cpu-used": "8"},
    "resilient": {"g": "8", "lag-in-frames": "0", "error-resilient": "1", "deadline": "realtime", "cpu-used": "8"},
    "hidden frames": {"g": "16", "lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good", "cpu-used": "5"},
}


def vp9(pictures, options: dict[str, str], pix_fmt: str = "yuv420p") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = None
        for n, rgb in enumerate(pictures):
            if stream is None:
                stream = container.add_stream("libvpx-vp9", rate=25, options={"threads": "1", **options})
                stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], pix_fmt
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def joined(first: bytes, second: bytes) -> bytes:
    """The packets of both in one track, whose header speaks of the first only."""
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(first)) as a,
        av.open(io.BytesIO(second)) as b,
        av.open(out, "w", format="mp4") as container,
    ):
        stream, at = container.add_stream_from_template(a.streams.video[0]), 0
        for source in (a, b):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream, packet.pts, packet.dts = stream, at, at
                    packet.time_base, at = Fraction(1, 25), at + 1
                    container.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_packet_says_or_inherits_the_size_that_ffmpeg_decodes(name: str, pix_fmt: str) -> None:
    video = vp9(moving(40, 98, 66), OPTIONS[name], pix_fmt)
    track = read_track(video)
    assert track is not None
    packets = [video[o : o + s] for o, s in zip(track.offsets, track.sizes, strict=True)]
    said = [size for packet in packets for size in packet_sizes(packet)]
    assert set(said) == {(98, 66)}
    assert len(said) >= len(track.keyframes)
    assert other_size(video, track.offsets, track.sizes, 98, 66) is None
    assert other_size(video, track.offsets, track.sizes, 66, 98) == (98, 66)
    check_member(video, "rgb", (66, 98))
    check_member(video, "flow", (33, 98))


def test_a_size_that_changes_at_a_keyframe_on_the_way_is_seen() -> None:
    video = joined(vp9(moving(10), OPTIONS["usual"]), vp9(moving(10, 64, 96), OPTIONS["usual"]))
    with av.open(io.BytesIO(video)) as container:
        assert {(f.width, f.height) for f in container.decode(video=0)} == {(96, 64), (64, 96)}
    with pytest.raises(WrongPictureSize, match="rgb: pictures of 64x96, its record says 96x64"):
        check_member(video, "rgb", (64, 96))


SIZE_BITS = f"{64 - 1:016b}{48 - 1:016b}"
# Marker, profile, show existing, type, shown, resilient; then what the specification has up to the size.
NOT_KEYFRAMES = {
    "inter": "10 00 0 1 1 0" + "00" + "00000001" + "0000" * 3 + "000" + SIZE_BITS,
    "inter, resilient": "10 00 0 1 1 1" + "00000001" + "0000" * 3 + "000" + SIZE_BITS,
    "intra only": "10 00 0 1 0 0" + "1" + "00" + f"{0x498342:024b}" + "00000001" + SIZE_BITS,
}


@pytest.mark.parametrize("name", NOT_KEYFRAMES)
def test_a_size_that_changes_without_a_keyframe_is_seen(name: str) -> None:
    bits = NOT_KEYFRAMES[name].replace(" ", "")
    packet = int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big") + bytes(9) + b"\1" + bytes(20)
    first = vp9(moving(1), OPTIONS["usual"])
    track = read_track(first)
    assert track is not None
    context = av.CodecContext.create("vp9", "r")
    for data in (first[track.offsets[0] :][: track.sizes[0]], packet):
        with contextlib.suppress(av.FFmpegError):  # behind its header there is nothing
            context.decode(av.Packet(data))
    assert (context.width, context.height) == (64, 48), "FFmpeg read the size"
    assert list(packet_sizes(packet)) == [(64, 48)]
    assert other_size(packet, np.array([0]), np.array([len(packet)]), 96, 64) == (64, 48)


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_other_containers_are_checked_by_what_they_announce(kind: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 66, "yuv420p"
        for rgb in moving(3, 96, 66):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    check_member(buffer.getvalue(), "diff", (66, 96))
    for size in ((64, 96), (66, 98), (1080, 1920)):
        with pytest.raises(WrongPictureSize, match="diff: pictures of 96x66, its record says"):
            check_member(buffer.getvalue(), "diff", size)


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile /etc/hostname\n", "#EXTM3U\n#EXTINF:1,\nx.ts\n", "v=0\n"])
def test_a_member_that_names_other_files_is_no_video(text: str) -> None:
    with pytest.raises(ReciprocalError, match="FFmpeg cannot decode this rgb video"):
        check_member(text.encode(), "rgb", (64, 96))


def test_a_table_that_claims_more_samples_than_bytes_takes_no_memory() -> None:
    """One size for all, and a count: 4 billion samples would be 32 GB of sizes."""
    video = bytearray(vp9(moving(3), OPTIONS["usual"]))
    at = video.index(b"stsz") + 8  # behind version and flags
    video[at : at + 8] = (1).to_bytes(4, "big") + b"\xff" * 4
    assert read_track(bytes(video)) is None


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["ffmpeg.FFmpegDecoder", "reference_decoder.ReferenceDecoder"])
def test_a_huge_picture_takes_no_memory(decoder: str, tmp_path) -> None:
    video = tmp_path / "huge.mp4"
    video.write_bytes(with_vp9_size(vp9(moving(3), OPTIONS["usual"]), 8192, 8192))
    module, name = decoder.split(".")
    more_mb = peak_growth_mb(
        f"""
import contextlib, sys
from pathlib import Path
from pipeline.config.data import ClipConfig
from pipeline.data.decoding.{module} import {name}
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan
from pipeline.errors import ReciprocalError
row = ({{"rgb": Path(sys.argv[1]).read_bytes()}}, ClipPlan((0, 1), (0, 1), Box(0, 0, 64, 96), False), (64, 96))
decoder = {name}(("rgb",), ClipConfig(num_frames=2, crop=16), 20.0)
""",
        "with contextlib.suppress(ReciprocalError): decoder.decode([row])",
        str(video),
    )
    print(f"{video.stat().st_size} bytes: {more_mb:.1f} MiB more")
    assert more_mb < 16


@pytest.mark.parametrize("on_the_way", [False, True])
def test_a_sample_of_another_size_is_damage(loader, stored_set_of, pictures, tmp_path, backend, on_the_way) -> None:
    """Black, weight 0, counted and named, like any other damaged sample; the rest of its batch is as it should be."""
    wrong: list[str] = []

    def alter(key: str, members: dict[str, bytes]) -> dict[str, bytes]:
        if wrong:
            return members
        wrong.append(key)
        other = vp9(moving(30, 128, 96), OPTIONS["usual"])
        return {**members, "rgb.mp4": joined(members["rgb.mp4"], other) if on_the_way else other}

    data = stored_set_of(tmp_path, {"train": [4]}, pictures["counter"], modalities=("rgb",), alter=alter)
    with loader(data, batch=2, backend=backend, modalities=("rgb",), data={"damaged_budget": 1}) as part:
        for batch in part.iter_epoch(0):
            for row, key in enumerate(batch.keys):
                assert batch.weights[row] == (key not in wrong)
                assert torch.any(batch.inputs["rgb"][row] != 0) == (key not in wrong)
        assert part.metrics()["damaged"] == 1


def test_a_member_that_names_a_file_of_this_machine_is_not_followed(
    loader, stored_set_of, pictures, tmp_path, backend, monkeypatch
) -> None:
    (tmp_path / "other.mp4").write_bytes(vp9(moving(40, 56, 48), OPTIONS["usual"]))
    monkeypatch.chdir(tmp_path)
    script = b"ffconcat version 1.0\nfile other.mp4\n"
    with av.open(io.BytesIO(script)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40, "FFmpeg follows it"
    data = stored_set_of(
        tmp_path / "set",
        {"train": [2]},
        pictures["counter"],
        modalities=("rgb",),
        alter=lambda key, members: {**members, "rgb.mp4": script},
    )
    match = "FFmpeg cannot decode this rgb video"
    with (
        loader(data, batch=2, backend=backend, modalities=("rgb",)) as part,
        pytest.raises(ReciprocalError, match=match),
    ):
        list(part.iter_epoch(0))
