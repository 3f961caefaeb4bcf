"""Every modality, crop, flip, jitter, stack and norm: the fast backends against the reference; differences in stored
levels 0..255.

Tolerances, and where they come from:

* dali: both convert colours with FFmpeg's libraries to the same 8 bits and resize in float32 with the same filter:
0.001 on average.
  At the rim of a shrunk picture (two pixels are left out) DALI repeats the edge where torch and Pillow renormalise the
  filter.
* ffmpeg, flow: the same codes and weights in float32: 0.001 anywhere.
* ffmpeg, colours: the reference rounds each pixel to 8-bit colours before the resize, ffmpeg does not: at most half a
level, 0.3 on
  average. Where strong colours leave 0..255, the reference cuts them before the resize and ffmpeg after: at edges of
  such colours single pixels differ by several levels (99.5 % stay within 0.6). diff-online subtracts two such pictures:
  twice that. Jitter multiplies differences by its largest gain.
* gpu: NVDEC has a colour conversion of its own: 2 levels on average, 0.5 for flow, which has no colours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.common.media import WrongPictureSize
from pipeline.config.data import ClipConfig
from pipeline.data.decoding import ffmpeg as ffmpeg_decoder
from pipeline.data.decoding import reference
from pipeline.data.decoding.ffmpeg import FFmpegDecoder
from pipeline.data.decoding.reference import prepare_clip, stack_motion
from pipeline.data.decoding.reference_decoder import ReferenceDecoder
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan, sample_plans
from pipeline.data.sampling.jitter import Jitter
from pipeline.dataset.sample import quantise_diff
from pipeline.errors import ReciprocalError
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb

pytestmark = pytest.mark.slow

MODALITIES = ("rgb", "flow", "diff", "diff-online")
JITTER = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.1}
GAIN = 1.3 * 1.3 * 1.4
CASES: dict[str, tuple[ClipConfig, int]] = {  # and crops of a test view, 0 for training
    "area": (ClipConfig(num_frames=4, crop=32), 0),
    "area, stack 5, strided": (ClipConfig(num_frames=3, stride=2, stack=5, crop=24, norm="caffe"), 0),
    "stretched, stack 3": (ClipConfig(num_frames=9, stride=3, stack=3, crop=24, short_videos="stretch"), 0),
    "corners": (ClipConfig(num_frames=3, crop=32, train_crop="corners", norm="inception"), 0),
    "fixed": (ClipConfig(num_frames=3, crop=64, train_crop="fixed", norm="caffe"), 0),
    "jitter": (ClipConfig(num_frames=3, crop=32, **JITTER), 0),
    "jitter, BGR": (ClipConfig(num_frames=3, crop=32, train_crop="corners", norm="caffe", **JITTER), 0),
    "1 crop": (ClipConfig(num_frames=3, stack=5, crop=40, norm="inception"), 1),
    "3 crops": (ClipConfig(num_frames=3, crop=32, resize=32, norm="imagenet"), 3),
}
DEVICES = ["ffmpeg", "dali", pytest.param("gpu", marks=pytest.mark.gpu)]


def make(backend: str, modalities: tuple[str, ...], clip: ClipConfig, rows: int, **options: Any) -> Any:
    if backend == "ffmpeg":
        return FFmpegDecoder(modalities, clip, 20.0, **options)
    if backend == "reference":
        return ReferenceDecoder(modalities, clip, 20.0, **options)
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from pipeline.data.decoding.dali import DaliDecoder

    return DaliDecoder(
        modalities, clip, 20.0, max_rows=rows, threads=1, device="gpu" if backend == "gpu" else "cpu", **options
    )


def coded(videos: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        m: encode_gray(v, 25.0, VideoCodec()) if m == "flow" else encode_rgb(v, 25.0, VideoCodec())
        for m, v in videos.items()
    }


@pytest.fixture(scope="module")
def samples(pictures) -> list[tuple[dict[str, bytes], int, int, int]]:
    """(members, frames, height, width): lying, standing, square, and one so short that its last frame is repeated."""
    sizes = [(20, 48, 66), (19, 70, 48), (23, 56, 56), (3, 48, 64)]
    return [(coded(pictures["texture"](n, h, w, seed)), n, h, w) for seed, (n, h, w) in enumerate(sizes)]


def rows_of(samples: list, clip: ClipConfig, crops: int) -> list:
    rows = []
    for number, (members, n, h, w) in enumerate(samples):
        for epoch in range(1 if crops else 3):
            plans = sample_plans(
                f"k{number}",
                n,
                h,
                w,
                clip,
                ("rgb", "flow"),
                train=not crops,
                seed=8,
                epoch=epoch,
                num_views=2,
                num_crops=crops or 1,
            )
            rows += [(members, plan, (h, w)) for plan in plans]
    return rows


def levels(difference: torch.Tensor, modality: str, clip: ClipConfig) -> torch.Tensor:
    """(..., C, H, W) network values to stored levels."""
    std = torch.tensor(reference.mean_std(modality, clip, 20.0)[1])
    return difference.abs() * std.view(-1, 1, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", DEVICES)
def test_clips_are_the_references(samples, backend: str, case: str) -> None:
    clip, crops = CASES[case]
    rows = rows_of(samples, clip, crops)
    if not crops:
        assert {plan.flip for _, plan, _ in rows} == {True, False}
    wanted = ReferenceDecoder(MODALITIES, clip, 20.0).decode(rows)
    decoder = make(backend, MODALITIES, clip, len(rows))
    found = {m: x.cpu() for m, x in decoder.decode(rows).items()}
    decoder.close()
    for m in MODALITIES:
        assert found[m].shape == wanted[m].shape
        off = levels(found[m] - wanted[m], m, clip)
        shown = (
            f"{backend} {m}: mean {off.mean():.4f}, 99.5 % {off.flatten().quantile(0.995):.3f}, most {off.max():.2f}"
            " levels"
        )
        factor = (2 if m == "diff-online" else 1) * (GAIN if m == "rgb" and clip.jitters else 1)
        if backend == "dali":
            assert off[..., 2:-2, 2:-2].mean() < 0.001 * factor, shown
            assert off.mean() < 0.15 * factor, shown
        elif backend == "gpu":
            assert off.mean() < (0.5 if m == "flow" else 2.0) * factor, shown
        elif m == "flow":
            assert off.max() < 0.001, shown
        else:
            assert off.mean() < 0.3 * factor, shown
            assert off.flatten().quantile(0.995) < 0.6 * factor, shown
            assert off.max() < 12 * factor, shown


@pytest.mark.parametrize("backend", [*DEVICES, "reference"])
def test_a_flip_mirrors_all_and_negates_u(samples, backend: str) -> None:
    clip = ClipConfig(num_frames=3, crop=32)
    members, _, h, w = samples[0]
    straight = ClipPlan((2, 3, 4), (2, 3, 4), Box(3, 5, 37, 41), False)
    decoder = make(backend, MODALITIES, clip, 2)
    out = {
        m: x.cpu()
        for m, x in decoder.decode(
            [(members, straight, (h, w)), (members, dataclasses.replace(straight, flip=True), (h, w))]
        ).items()
    }
    decoder.close()
    for m, (plain, flipped) in out.items():
        mirror = plain.flip(-1)
        if m == "flow":
            assert mirror[:, 0].abs().mean() > 0.1, "u is zero: its sign cannot be seen"
            mirror[:, 0] *= -1
        torch.testing.assert_close(flipped, mirror, atol=2e-4, rtol=0, msg=f"{backend} {m}")


@pytest.mark.parametrize("backend", [*DEVICES, "reference"])
@pytest.mark.parametrize("stack", [1, 3])
def test_channels_last_is_another_order_of_the_same_values(samples, backend: str, stack: int) -> None:
    clip = ClipConfig(num_frames=3, stack=stack, crop=32, **JITTER)
    rows = rows_of(samples[:2], clip, 0)
    usual, last = (make(backend, MODALITIES, clip, len(rows), channels_last=flag) for flag in (False, True))
    for (m, a), b in zip(usual.decode(rows).items(), last.decode(rows).values(), strict=True):
        a, b = (x if m == "rgb" else stack_motion(x, clip) for x in (a, b))
        assert torch.equal(a, b), m
        assert a.is_contiguous()
        assert b.shape == a.shape
        frames = b.flatten(0, 1)
        assert frames.data_ptr() == b.data_ptr(), "folding frames into the batch copied them"
        assert frames.is_contiguous(memory_format=torch.channels_last)
    usual.close()
    last.close()


@pytest.mark.parametrize("backend", ["ffmpeg", "dali", "reference"])
@pytest.mark.parametrize("modalities", [("diff-online",), ("flow", "diff-online"), ("diff-online", "rgb")])
def test_any_choice_of_modalities_gives_the_same_clips(samples, backend: str, modalities: tuple[str, ...]) -> None:
    clip = ClipConfig(num_frames=3, stride=2, crop=32)
    rows = rows_of(samples, clip, 0)
    every, some = make(backend, MODALITIES, clip, len(rows)), make(backend, modalities, clip, len(rows))
    whole, part = every.decode(rows), some.decode(rows)
    assert tuple(part) == modalities
    for m in modalities:
        torch.testing.assert_close(part[m], whole[m], atol=1e-5, rtol=0)
    every.close()
    some.close()


@pytest.mark.parametrize(("norm", "stack"), [("imagenet", 1), ("caffe", 2), ("inception", 3)])
def test_diff_online_is_the_stored_difference_without_its_coding(norm, stack: int) -> None:
    """Resizing is linear: the difference of resized frames is the resized difference, wherever none is cut at 127."""
    frames = np.random.default_rng(1).integers(60, 180, (12, 30, 40, 3), dtype=np.uint8)
    clip = ClipConfig(num_frames=4, stride=2, stack=stack, crop=24, norm=norm)
    for epoch in range(4):
        (plan,) = sample_plans("k", 12, 30, 40, clip, ("rgb", "flow"), train=True, seed=0, epoch=epoch)
        out = prepare_clip(
            {"rgb": frames, "diff": quantise_diff(frames)}, plan, clip, modalities=("diff", "diff-online")
        )
        np.testing.assert_allclose(out["diff-online"], out["diff"], atol=3e-3 if norm == "caffe" else 3e-5)


def test_diff_online_is_cut_where_the_stored_one_is() -> None:
    frames = np.stack([np.zeros((16, 16, 3)), np.full((16, 16, 3), 250), np.zeros((16, 16, 3))]).astype(np.uint8)
    clip = ClipConfig(num_frames=2, crop=16, norm="caffe")
    plan = ClipPlan((0, 1), (0, 1), Box(0, 0, 16, 16), False)
    out = prepare_clip({"rgb": frames}, plan, clip, modalities=("diff-online",))["diff-online"]
    assert (out[0] == 127).all()
    assert (out[1] == -127).all()


@pytest.mark.parametrize(("module", "kind"), [(ffmpeg_decoder, FFmpegDecoder), (reference, ReferenceDecoder)])
def test_rgb_and_diff_online_decode_their_video_once(samples, monkeypatch: pytest.MonkeyPatch, module, kind) -> None:
    read, seen = module.read_frames, []
    monkeypatch.setattr(
        module,
        "read_frames",
        lambda video, wanted, take, what, size: (
            seen.append((what, tuple(wanted))) or read(video, wanted, take, what, size)
        ),
    )
    clip = ClipConfig(num_frames=3, stride=4, crop=16)
    members, n, h, w = samples[0]
    (plan,) = sample_plans("k", n, h, w, clip, ("rgb", "flow"), train=True, seed=0, epoch=0)
    kind(("rgb", "diff-online"), clip, 20.0).decode([({"rgb": members["rgb"]}, plan, (h, w))])
    start = plan.rgb_frames[0]
    assert seen == [("rgb", tuple(start + t for t in (0, 1, 4, 5, 8, 9)))]


@pytest.mark.parametrize("kind", [FFmpegDecoder, ReferenceDecoder])
@pytest.mark.parametrize("modality", ["rgb", "flow", "diff"])
def test_a_picture_that_is_not_of_its_records_size_is_refused(samples, modality: str, kind) -> None:
    """Compiled loops check nothing: a wrong record must not make them read beyond the picture, nor crop it."""
    clip, plan = ClipConfig(num_frames=2, crop=16), ClipPlan((0, 1), (0, 1), Box(0, 0, 20, 20), False)
    members, _, height, width = samples[0]
    for size in ((height + 2, width), (height, width + 2), (height - 2, width), (height // 2, width // 2)):
        with pytest.raises(WrongPictureSize, match=f"{modality}: .*its record says {size[1]}x"):
            kind((modality,), clip, 20.0).decode([(members, plan, size)])


def test_a_box_outside_the_picture_is_refused(samples) -> None:
    clip = ClipConfig(num_frames=2, crop=16)
    members, _, height, width = samples[0]
    for modality, box in (("rgb", Box(20, 0, 40, 40)), ("flow", Box(0, 40, 40, 40)), ("diff", Box(0, 0, 200, 20))):
        plan = ClipPlan((0, 1), (0, 1), box, False)
        with pytest.raises(ReciprocalError, match="outside a stored picture"):
            FFmpegDecoder((modality,), clip, 20.0).decode([(members, plan, (height, width))])


def test_foreign_colours_go_the_long_way(pictures) -> None:
    """4:4:4 pictures and full range are not what preprocessing writes; swscale makes colours of them, as in the
    reference.
    """
    import io

    import av

    frames = pictures["texture"](4, 48, 64, 3)["rgb"]
    for pix_fmt, codec in (("yuv444p", "libx264"), ("yuvj420p", "mjpeg")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="matroska") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        clip = ClipConfig(num_frames=3, crop=24, norm="caffe")
        rows = [
            (
                {"rgb": buffer.getvalue()},
                ClipPlan((0, 1, 2), (0, 1, 2), Box(3, 5, 40, 50), True, Jitter(0.9, 1.1, 0.8, 0.05)),
                (48, 64),
            )
        ]
        found, wanted = (kind(("rgb",), clip, 20.0).decode(rows)["rgb"] for kind in (FFmpegDecoder, ReferenceDecoder))
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("backend", [*DEVICES, "reference"])
@pytest.mark.slow
def test_the_share_of_decoding_falls_with_the_work_after_it(samples, backend: str) -> None:
    shares = []
    for crop in (16, 400):
        clip = ClipConfig(num_frames=4, crop=crop)
        rows = rows_of(samples[:2], clip, 0)
        decoder = make(backend, ("rgb", "flow"), clip, len(rows))
        before = decoder.decode(rows)["rgb"].clone()
        shares.append(sorted(decoder.decode_share(rows) for _ in range(3))[1])
        assert torch.equal(decoder.decode(rows)["rgb"], before), "measuring changed the decoder"
        decoder.close()
    assert 0 < shares[1] < shares[0] <= 1, shares
