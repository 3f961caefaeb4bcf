"""The DALI graph against the reference, sample by sample; frame numbers against pictures that carry them."""

from __future__ import annotations

import io
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.mp4 import read_track
from pipeline.data.decoding.reference import decode_frames, prepare_frames
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan, sample_plans
from pipeline.errors import ConfigError, ReciprocalError
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb

pytest.importorskip("nvidia.dali", reason="DALI is not installed")
from pipeline.data.decoding.dali import DaliDecoder

MODALITIES = ("rgb", "flow", "diff")
# Mean absolute differences allowed per clip, in stored levels 0..255, inside the outermost two pixels. On the CPU both
# convert colours with FFmpeg's libraries; NVDEC has arithmetic of its own. At the rim of a shrunk picture DALI repeats
# the edge where torch and Pillow renormalise the filter: up to 11 levels seen at a sharp edge, 0.07 on average.
INSIDE = {"cpu": {"rgb": 0.001, "flow": 0.001, "diff": 0.001}, "gpu": {"rgb": 2.0, "flow": 0.5, "diff": 2.0}}
WHOLE = {"cpu": {"rgb": 0.15, "flow": 0.15, "diff": 0.15}, "gpu": {"rgb": 2.0, "flow": 0.5, "diff": 2.0}}
DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def coded(videos: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        m: encode_gray(v, 25.0, VideoCodec()) if m == "flow" else encode_rgb(v, 25.0, VideoCodec())
        for m, v in videos.items()
    }


@pytest.fixture(scope="module")
def textures(pictures) -> list[tuple[dict[str, bytes], int, int, int]]:
    """(members, frames, height, width); sizes differ within the batch."""
    sizes = [(20, 48, 64), (19, 64, 48), (23, 56, 56)]
    return [(coded(pictures["texture"](n, h, w, seed)), n, h, w) for seed, (n, h, w) in enumerate(sizes)]


def levels(difference: torch.Tensor, modality: str, clip: ClipConfig) -> float:
    """Mean absolute difference in stored levels."""
    scale = {"imagenet": 255 * 0.225, "inception": 127.5, "caffe": 1.0}[clip.norm]
    return float(difference.abs().mean()) * (clip.flow_std * 255 / 40 if modality == "flow" else scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("norm", "crop", "train"), [("imagenet", 32, True), ("caffe", 24, True), ("inception", 64, False)]
)
def test_every_modality_matches_the_reference(textures, device, norm, crop, train) -> None:
    clip = ClipConfig(num_frames=4, stride=2, stack=2, crop=crop, norm=norm)
    rows = []
    for epoch in range(3):
        for number, (members, n, h, w) in enumerate(textures):
            plans = sample_plans(
                f"k{number}", n, h, w, clip, ("rgb", "flow"), train=train, seed=5, epoch=epoch, num_views=2
            )
            rows += [(members, plan, (h, w)) for plan in plans]
    if train:
        assert {plan.flip for _, plan, _ in rows} == {True, False}
    decoder = DaliDecoder(MODALITIES, clip, 20.0, max_rows=len(rows), threads=1, device=device)
    found = decoder.decode(rows)
    decoder.close()
    for modality in MODALITIES:
        assert found[modality].shape[2:] == ((2 if modality == "flow" else 3), crop, crop)
        for row, (members, plan, _) in enumerate(rows):
            frames = decode_frames(members[modality], modality, plan.frames(modality))
            wanted = prepare_frames(modality, frames, plan, clip)
            difference = found[modality][row].cpu() - wanted
            whole, inside = levels(difference, modality, clip), levels(difference[..., 2:-2, 2:-2], modality, clip)
            assert inside < INSIDE[device][modality], f"{modality} row {row}: {inside:.4f} levels inside, {plan}"
            assert whole < WHOLE[device][modality], f"{modality} row {row}: {whole:.3f} levels, {plan}"


@pytest.mark.parametrize("device", DEVICES)
def test_frames_are_exactly_those_asked_for(pictures, device) -> None:
    clip = ClipConfig(num_frames=5, crop=16, norm="caffe", flow_std=1.0)
    members = coded(pictures["counter"](25, 32, 32, 0))
    asked = [
        (0, 1, 2, 3, 4),
        (11, 14, 17, 20, 23),
        (20, 22, 23, 23, 23),
        (16, 16, 16, 16, 16),
    ]  # across keyframes; repeats
    rows = [(members, ClipPlan(frames, frames, Box(0, 0, 32, 32), False), (32, 32)) for frames in asked]
    decoder = DaliDecoder(MODALITIES, clip, 20.0, max_rows=4, threads=1, device=device)
    found = {m: x.cpu().mean((3, 4)) for m, x in decoder.decode(rows).items()}
    decoder.close()
    rgb_level = found["rgb"] + torch.tensor([104.0, 117.0, 128.0])
    flow_code = (found["flow"] + 20) * 255 / 40
    t = torch.tensor(asked)
    assert (torch.round((rgb_level.mean(-1) - 20) / 8) == t).all()
    assert (torch.round((flow_code[..., 0] - 40) / 6) == t).all()
    assert (torch.round((220 - flow_code[..., 1]) / 6) == t).all()
    assert (torch.round((found["diff"].mean(-1) + 128 - 60) / 5) == t).all()
    # Grey pictures must come out at the right level: limited range read as full range would be off by up to 16.
    assert (rgb_level.mean(-1) - (20 + 8 * t)).abs().max() < 1.5
    assert (flow_code[..., 0] - (40 + 6 * t)).abs().max() < 0.6


def test_the_seam_of_a_flow_picture_does_not_leak() -> None:
    flow = np.concatenate([np.full((6, 32, 32), 28), np.full((6, 32, 32), 228)], 1).astype(np.uint8)
    clip = ClipConfig(num_frames=2, crop=48, flow_std=1.0)
    decoder = DaliDecoder(("flow",), clip, 20.0, max_rows=1, threads=1)
    row = (
        {"flow": encode_gray(flow, 25.0, VideoCodec())},
        ClipPlan((0, 1), (0, 1), Box(0, 0, 32, 32), False),
        (32, 32),
    )
    found = decoder.decode([row])["flow"]
    decoder.close()
    codes = (found[0] + 20) * 255 / 40
    assert codes[:, 0].max() < 40, "v leaked into u"
    assert codes[:, 1].min() > 216, "u leaked into v"


def test_fewer_rows_than_the_most_give_the_same_clips(textures) -> None:
    clip = ClipConfig(num_frames=3, crop=16)
    rows = [
        (members, sample_plans("k", n, h, w, clip, ("rgb", "flow"), train=True, seed=0, epoch=0)[0], (h, w))
        for members, n, h, w in textures
    ]
    decoder = DaliDecoder(("rgb",), clip, 20.0, max_rows=3, threads=1)
    everything = decoder.decode(rows)["rgb"].clone()
    assert torch.equal(decoder.decode(rows[1:2])["rgb"], everything[1:2])
    again = decoder.decode(rows)["rgb"]
    assert torch.equal(again, everything)
    kept = again.clone()
    decoder.decode(rows[:1])
    assert torch.equal(again, kept), "a batch's memory is overwritten by the next"
    decoder.close()


def test_h264_on_the_cpu_is_refused_with_the_ways_out() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    plan = ClipPlan((0, 1), (0, 1), Box(0, 0, 32, 32), False)
    clip = ClipConfig(num_frames=2, crop=16)
    decoder = DaliDecoder(("rgb",), clip, 20.0, max_rows=1, threads=1)
    with pytest.raises(
        ConfigError, match=r"data\.decoder = 'dali': rgb is stored as h264.*data\.decoder=reference, or a GPU"
    ):
        decoder.decode([({"rgb": buffer.getvalue()}, plan, (32, 32))])
    decoder.close()
    frames = decode_frames(buffer.getvalue(), "rgb", plan.rgb_frames)  # the reference reads it
    assert prepare_frames("rgb", frames, plan, clip).shape == (2, 3, 16, 16)


def test_a_graph_that_failed_says_so(textures) -> None:
    clip = ClipConfig(num_frames=2, crop=16)
    members, n, h, w = textures[0]
    plan = sample_plans("k", n, h, w, clip, ("rgb", "flow"), train=True, seed=0, epoch=0)[0]
    decoder = DaliDecoder(("rgb",), clip, 20.0, max_rows=2, threads=1)
    decoder.decode([(members, plan, (h, w))])
    track = read_track(members["rgb"])
    assert track is not None
    start = int(track.offsets[0]) + 10  # behind the header
    junk = members["rgb"][:start] + bytes(track.sizes[0] - 10) + members["rgb"][start + track.sizes[0] - 10 :]
    with pytest.raises(ReciprocalError, match="DALI failed"):
        decoder.decode([(members, plan, (h, w)), ({"rgb": junk}, plan, (h, w))])
    decoder.close()


@pytest.mark.slow
def test_prediction_machines_need_no_dali() -> None:
    modules = "batch index loader preflight sampling.clips fetch.fetcher decoding.reference decoding.factory"
    load = f"import sys\nfor m in '{modules}'.split(): __import__('pipeline.data.' + m)\n"
    code = load + "print(any(m.startswith('nvidia.dali') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.stdout.strip() == "False", done.stdout + done.stderr
