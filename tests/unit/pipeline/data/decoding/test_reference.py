"""The picture operations of the reference against closed forms, OpenCV and Pillow."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.reference import decode_frames, prepare_clip
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan
from pipeline.dataset.sample import dequantise_flow
from pipeline.errors import ReciprocalError
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_rgb


def plan(frames: int, box: Box, *, flip: bool = False, window: int | None = None) -> ClipPlan:
    return ClipPlan(tuple(range(frames)), tuple(range(window or frames)), box, flip)


def random_videos(
    rng: np.random.Generator, num_frames: int = 5, height: int = 20, width: int = 24
) -> dict[str, np.ndarray]:
    shape = (num_frames, height, width, 3)
    return {
        "rgb": rng.integers(0, 256, shape, dtype=np.uint8),
        "flow": rng.integers(0, 256, (num_frames - 1, 2 * height, width), dtype=np.uint8),
        "diff": rng.integers(0, 256, (num_frames - 1, *shape[1:]), dtype=np.uint8),
    }


@pytest.mark.parametrize("norm", ["imagenet", "inception", "caffe"])
def test_values_without_resizing_are_the_formulas(norm) -> None:
    videos = random_videos(np.random.default_rng(0))
    clip = ClipConfig(num_frames=3, crop=16, norm=norm, flow_std=4.0)
    out = prepare_clip(videos, plan(3, Box(2, 5, 16, 16)), clip)
    cut = videos["rgb"][:3, 2:18, 5:21].astype(np.float64)
    diff = videos["diff"][:3, 2:18, 5:21].astype(np.float64) - 128
    if norm == "imagenet":
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        rgb, diff = (cut / 255 - mean) / std, diff / 255 / std
    elif norm == "inception":
        rgb, diff = cut / 127.5 - 1, diff / 127.5
    else:
        rgb, diff = cut[..., ::-1] - np.array([104, 117, 128]), diff[..., ::-1]
    np.testing.assert_allclose(out["rgb"], rgb.transpose(0, 3, 1, 2), atol=1e-4)
    np.testing.assert_allclose(out["diff"], diff.transpose(0, 3, 1, 2), atol=1e-4)
    flow_px = dequantise_flow(videos["flow"][:3])
    np.testing.assert_allclose(out["flow"], flow_px[:, :, 2:18, 5:21] / 4.0, atol=1e-5)


def test_the_flow_bound_scales_flow() -> None:
    videos = {"flow": random_videos(np.random.default_rng(1))["flow"]}
    clip = ClipConfig(num_frames=3, crop=16)
    out = prepare_clip(videos, plan(3, Box(0, 0, 16, 16)), clip, flow_bound_px=10.0)["flow"]
    np.testing.assert_allclose(
        out, dequantise_flow(videos["flow"][:3], 10.0)[:, :, :16, :16] / clip.flow_std, atol=1e-5
    )


@pytest.mark.parametrize("box", [Box(1, 2, 11, 9), Box(0, 3, 16, 10)])
def test_enlarging_is_opencv_linear(box: Box) -> None:
    video = random_videos(np.random.default_rng(2))["rgb"]
    out = prepare_clip({"rgb": video}, plan(2, box), ClipConfig(num_frames=2, crop=16, norm="inception"))["rgb"]
    for t in range(2):
        cut = video[t, box.top : box.top + box.height, box.left : box.left + box.width].astype(np.float32)
        wanted = cv2.resize(cut, (16, 16), interpolation=cv2.INTER_LINEAR) / 127.5 - 1
        np.testing.assert_allclose(out[t].transpose(1, 2, 0), wanted, atol=1e-4)


def test_shrinking_is_pillows_triangle() -> None:
    grey = np.random.default_rng(3).integers(0, 256, (50, 70), dtype=np.uint8)
    clip = ClipConfig(num_frames=1, crop=16, norm="inception")
    out = prepare_clip({"rgb": np.repeat(grey[None, ..., None], 3, -1)}, plan(1, Box(4, 6, 40, 60)), clip)["rgb"]
    cut = Image.fromarray(grey[4:44, 6:66].astype(np.float32))
    wanted = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR)) / 127.5 - 1
    np.testing.assert_allclose(out[0, 0], wanted, atol=1e-4)


def test_flip_is_the_clip_of_the_mirrored_world() -> None:
    videos = random_videos(np.random.default_rng(4))
    clip = ClipConfig(num_frames=3, crop=16, stack=2)
    width, box = 24, Box(1, 3, 17, 13)
    mirrored = {m: v[:, :, ::-1].copy() for m, v in videos.items()}
    mirrored["flow"][:, :20] = 255 - mirrored["flow"][:, :20]  # in a mirror, u changes its sign: 255 - q is exactly -d
    mirror_box = Box(box.top, width - box.left - box.width, box.height, box.width)
    flipped = prepare_clip(videos, plan(3, box, flip=True, window=4), clip)
    world = prepare_clip(mirrored, plan(3, mirror_box, window=4), clip)
    for modality in videos:
        np.testing.assert_allclose(flipped[modality], world[modality], atol=1e-4, err_msg=modality)
    straight = prepare_clip(videos, plan(3, box, window=4), clip)["flow"]
    np.testing.assert_allclose(flipped["flow"][:, 0::2], -straight[:, 0::2, :, ::-1], atol=1e-4)
    np.testing.assert_allclose(flipped["flow"][:, 1::2], straight[:, 1::2, :, ::-1], atol=1e-4)


def test_u_and_v_do_not_mix_at_the_seam() -> None:
    flow = np.concatenate([np.zeros((2, 20, 24)), np.full((2, 20, 24), 255)], 1).astype(np.uint8)
    out = prepare_clip({"flow": flow}, plan(2, Box(0, 0, 20, 20)), ClipConfig(num_frames=2, crop=16, flow_std=1.0))[
        "flow"
    ]
    assert np.abs(out[:, 0] + 20).max() < 1e-4
    assert np.abs(out[:, 1] - 20).max() < 1e-4


def test_stacks_hold_u_then_v_of_each_frame() -> None:
    t = np.arange(6, dtype=np.uint8)
    flow = np.concatenate([np.broadcast_to((10 * t + c)[:, None, None], (6, 16, 16)) for c in (0, 5)], 1)
    clip = ClipConfig(num_frames=2, stride=2, stack=3, crop=16, flow_std=1.0)
    window = ClipPlan((0, 2), (0, 1, 2, 3, 4), Box(0, 0, 16, 16), False)
    out = prepare_clip({"flow": flow}, window, clip)["flow"]
    assert out.shape == (2, 6, 16, 16)
    codes = np.rint((out.mean((2, 3)) + 20) * 255 / 40).astype(int)
    assert codes.tolist() == [[0, 5, 10, 15, 20, 25], [20, 25, 30, 35, 40, 45]]


def test_a_video_shorter_than_its_record_is_named() -> None:
    video = encode_rgb(np.zeros((4, 16, 16, 3), np.uint8), 25.0, VideoCodec())
    with pytest.raises(ReciprocalError, match="rgb video has no frame 7"):
        decode_frames(video, "rgb", [0, 7])
    with pytest.raises(ReciprocalError, match="cannot decode this flow video"):
        decode_frames(b"no video at all", "flow", [0])
