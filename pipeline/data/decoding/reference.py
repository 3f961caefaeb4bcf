"""The picture operations, written from their definitions: PyAV decodes, torch resizes, numpy does the rest.

This is the oracle of the other decoders, the slow decoder of ``reference_decoder``, and what prediction uses on raw
frames. It reads whatever PyAV reads, H.264 among it.

Values the network sees, from stored 8-bit codes:

    rgb   imagenet  (x/255 - mean)/std     RGB       inception  x/127.5 - 1  RGB       caffe  x - (104, 117, 128)  BGR
    flow  (q * 2 bound/255 - bound) / flow_std       stored pixels per frame, whatever the crop is resized to
    diff  (q - 128) * s                              s as for rgb: the difference of two normalised RGB frames
    diff-online  clip(x[t+1] - x[t], -127, 127) * s  the same, from decoded and resized RGB; no codes of its own

A colour jitter (``pipeline.data.sampling.jitter``) changes rgb after the resize and before the normalisation, and
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from torch.nn import functional

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.norms import bgr, mean_std
from pipeline.data.decoding.stacks import stack_motion
from pipeline.data.decoding.videos import read_frames
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import ClipPlan
from pipeline.data.sampling.jitter import MIDDLE, YIQ, Jitter
from pipeline.dataset.sample import DIFF_BOUND, ONLINE_DIFF

# swscale's fast path to RGB repeats chroma and rounds down: up to 43 levels off at coloured edges, 1 to 2 levels dark
# in colours. These flags select the exact path, which DALI takes too.
EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def _crop_resize(pictures_LCHW: torch.Tensor, box: Box, crop: int) -> torch.Tensor:
    # Cropped before it is resized, so that nothing outside the box (for flow: the other half) leaks in. A triangle
    # filter, widened when shrinking: plain bilinear sampling would alias, and the alias would move with the object.
    cut = pictures_LCHW[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    return functional.interpolate(cut.float(), size=(crop, crop), mode="bilinear", align_corners=False, antialias=True)


def _jittered(codes_LCHW: torch.Tensor, jitter: Jitter) -> torch.Tensor:
    """``pipeline.data.sampling.jitter``'s definition, step by step, on RGB codes."""
    x = codes_LCHW * jitter.brightness
    x = (x - MIDDLE) * jitter.contrast + MIDDLE
    to_yiq = torch.from_numpy(YIQ).to(x.dtype)
    y, i, q = torch.einsum("ij,ljhw->ilhw", to_yiq, x)
    i, q = i * jitter.saturation, q * jitter.saturation
    cos, sin = math.cos(2 * math.pi * jitter.hue), math.sin(2 * math.pi * jitter.hue)
    turned = torch.stack([y, cos * i - sin * q, sin * i + cos * q])
    return torch.einsum("ij,jlhw->lihw", torch.linalg.inv(to_yiq), turned).clamp(0, 255)


def _normalised(modality: str, x: torch.Tensor, plan: ClipPlan, clip: ClipConfig, flow_bound_px: float) -> torch.Tensor:
    if bgr(clip) and modality != "flow":
        x = x.flip(1)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in mean_std(modality, clip, flow_bound_px))
    x = (x - mean) / std
    if plan.flip:
        x = x.flip(-1)
        if modality == "flow":
            x[:, 0].neg_()
    return x.contiguous()


def prepare_rgb(
    modalities: Sequence[str], frames: np.ndarray, plan: ClipPlan, clip: ClipConfig, window: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """rgb and diff-online, those that are among ``modalities``, from the RGB frames that both take.

    Args:
        frames: (L, H, W, 3) uint8, selected by ``window``; default: ``plan.rgb_window(modalities)``.

    Returns:
        By modality (L, 3, crop, crop) float32, motion not yet stacked.
    """
    window = plan.rgb_window(modalities) if window is None else window
    codes = _crop_resize(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2), plan.box, clip.crop)
    clips = {}
    if "rgb" in modalities:
        x = codes if ONLINE_DIFF not in modalities else codes[torch.from_numpy(plan.rgb_takes(window))]
        clips["rgb"] = _normalised("rgb", x if plan.jitter is None else _jittered(x, plan.jitter), plan, clip, 1.0)
    if ONLINE_DIFF in modalities:
        earlier, later = (codes[torch.from_numpy(take)] for take in plan.pair_takes(window))
        clips[ONLINE_DIFF] = _normalised(ONLINE_DIFF, (later - earlier).clamp(-DIFF_BOUND, DIFF_BOUND), plan, clip, 1.0)
    return clips


def prepare_frames(
    modality: str, frames: np.ndarray, plan: ClipPlan, clip: ClipConfig, flow_bound_px: float = 20.0
) -> torch.Tensor:
    """Frames that the plan selected, as the network sees them, motion not yet stacked.

    Args:
        frames: uint8, selected by ``plan.frames(modality)``: rgb, diff and diff-online (L, H, W, 3), flow codes (L, 2H,
            W).

    Returns:
        (L, C, crop, crop) float32.
    """
    if modality in ("rgb", ONLINE_DIFF):
        return prepare_rgb((modality,), frames, plan, clip)[modality]
    if modality == "flow":
        length, rows, width = frames.shape
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).reshape(length, 2, rows // 2, width)
    else:
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return _normalised(modality, _crop_resize(pictures, plan.box, clip.crop), plan, clip, flow_bound_px)


def prepare_clip(
    frames: Mapping[str, np.ndarray],
    plan: ClipPlan,
    clip: ClipConfig,
    flow_bound_px: float = 20.0,
    modalities: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """One clip from whole decoded videos.

    Args:
        frames: uint8 by stored modality: rgb (N, H, W, 3), flow codes (N-1, 2H, W) with u above v, diff (N-1, H, W, 3).
        plan: from ``pipeline.data.sampling.clips``, made for N, H, W.
        flow_bound_px: bound the codes were made with.
        modalities: outputs; default: those of ``frames``. diff-online is made of rgb.

    Returns:
        By modality (T, C, crop, crop) float32; C as in ``Batch``.
    """
    wanted = tuple(frames) if modalities is None else tuple(modalities)
    window = plan.rgb_window(wanted)
    clips = (
        prepare_rgb(wanted, frames["rgb"][list(window)], plan, clip, window)
        if {"rgb", ONLINE_DIFF} & set(wanted)
        else {}
    )
    for modality in wanted:
        if modality not in clips:
            clips[modality] = prepare_frames(
                modality, frames[modality][list(plan.frames(modality))], plan, clip, flow_bound_px
            )
    return {m: (clips[m] if m == "rgb" else stack_motion(clips[m][None], clip)[0]).numpy() for m in wanted}


def decode_frames(
    video: bytes, modality: str, indices: Sequence[int], size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode frames of a stored member.

    Args:
        indices: ascending, repeats allowed.
        size: rows and columns that every picture must have; None: any.

    Returns:
        uint8 (L, H, W, 3) RGB, or (L, rows, W) for flow.

    Raises:
        WrongPictureSize: a picture is not of ``size``.
        ReciprocalError: the video is shorter than the last index, or FFmpeg cannot decode it.
    """
    return np.stack(read_frames(video, indices, lambda frame: _pixels(frame, modality), modality, size))


def _pixels(frame: av.VideoFrame, modality: str) -> np.ndarray:
    if modality == "flow":
        return frame.to_ndarray(format="gray", dst_color_range=ColorRange.JPEG)
    return frame.to_ndarray(
        format="rgb24", src_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG, interpolation=EXACT
    )
