"""The picture operations, literally: PyAV decodes, torch resizes, numpy does the rest.

This is the oracle of the DALI graph, the loader for machines without DALI, and what evaluation and prediction use on
raw frames. It reads whatever PyAV reads, H.264 among it.

Values the network sees, from stored 8-bit codes:

    rgb   imagenet  (x/255 - mean)/std     RGB       inception  x/127.5 - 1  RGB       caffe  x - (104, 117, 128)  BGR
    flow  (q * 2 bound/255 - bound) / flow_std       stored pixels per frame, whatever the crop is resized to
    diff  (q - 128) * s                              s as for rgb: the difference of two normalised RGB frames
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import av
import av.error
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from torch.nn import functional

from pipeline.config.data import ClipConfig
from pipeline.data.clips import Box, ClipPlan, stack_gather
from pipeline.errors import ReciprocalError
from pipeline.sample import DIFF_ZERO

# swscale's short cut to RGB repeats chroma and rounds down: up to 43 levels off at coloured edges, 1 to 2 levels dark
# in colours. These flags are the long way, which DALI takes too.
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND

_NORMS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # mean and std in codes 0..255, in the channel order of ``bgr``
    "imagenet": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    "inception": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": ((104.0, 117.0, 128.0), (1.0, 1.0, 1.0)),
}


def bgr(clip: ClipConfig) -> bool:
    """Whether colour channels are given as blue, green, red."""
    return clip.norm == "caffe"


def mean_std(modality: str, clip: ClipConfig, flow_bound_px: float) -> tuple[list[float], list[float]]:
    """Mean and std per channel, in stored codes: the network sees ``(code - mean) / std``."""
    if modality == "flow":
        return [127.5, 127.5], [clip.flow_std * 255 / (2 * flow_bound_px)] * 2
    mean, std = _NORMS[clip.norm]
    return (list(mean) if modality == "rgb" else [float(DIFF_ZERO)] * 3), list(std)


def stack_motion(frames: torch.Tensor, clip: ClipConfig) -> torch.Tensor:
    """(B, L, C, H, W) frames of a motion window to (B, T, stack*C, H, W)."""
    gather = stack_gather(clip)
    if gather.shape == (frames.shape[1], 1):
        return frames
    batch, _, channels, height, width = frames.shape
    picked = frames[:, torch.from_numpy(gather.reshape(-1)).to(frames.device)]
    return picked.reshape(batch, clip.num_frames, clip.stack * channels, height, width)


def _crop_resize(pictures_LCHW: torch.Tensor, box: Box, crop: int) -> torch.Tensor:
    # Cropped before it is resized, so that nothing outside the box (for flow: the other half) leaks in. A triangle
    # filter, widened when shrinking: plain bilinear sampling would alias, and the alias would move with the object.
    cut = pictures_LCHW[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    return functional.interpolate(cut.float(), size=(crop, crop), mode="bilinear", align_corners=False, antialias=True)


def prepare_frames(modality: str, frames: np.ndarray, plan: ClipPlan, clip: ClipConfig, flow_bound_px: float = 20.0) -> torch.Tensor:
    """Frames that the plan selected, as the network sees them, motion not yet stacked.

    Args:
        frames: uint8, selected by ``plan.frames(modality)``: rgb and diff (L, H, W, 3), flow codes (L, 2H, W).

    Returns:
        (L, C, crop, crop) float32.
    """
    if modality == "flow":
        length, rows, width = frames.shape
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).reshape(length, 2, rows // 2, width)
    else:
        pictures = torch.from_numpy(np.ascontiguousarray(frames[..., ::-1] if bgr(clip) else frames)).permute(0, 3, 1, 2)
    x = _crop_resize(pictures, plan.box, clip.crop)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in mean_std(modality, clip, flow_bound_px))
    x = (x - mean) / std
    if plan.flip:
        x = x.flip(-1)
        if modality == "flow":
            x[:, 0].neg_()
    return x.contiguous()


def prepare_clip(frames: Mapping[str, np.ndarray], plan: ClipPlan, clip: ClipConfig, flow_bound_px: float = 20.0) -> dict[str, np.ndarray]:
    """One clip from whole decoded videos.

    Args:
        frames: uint8 by modality: rgb (N, H, W, 3), flow codes (N-1, 2H, W) with u above v, diff (N-1, H, W, 3).
        plan: from ``pipeline.data.clips``, made for N, H, W.
        flow_bound_px: bound the codes were made with.

    Returns:
        By modality (T, C, crop, crop) float32; C as in ``Batch``.
    """
    clips = {}
    for modality, video in frames.items():
        x = prepare_frames(modality, video[list(plan.frames(modality))], plan, clip, flow_bound_px)
        clips[modality] = (x if modality == "rgb" else stack_motion(x[None], clip)[0]).numpy()
    return clips


def decode_frames(video: bytes, modality: str, indices: Sequence[int]) -> np.ndarray:
    """Decode frames of a stored member.

    Args:
        indices: ascending, repeats allowed.

    Returns:
        uint8 (L, H, W, 3) RGB, or (L, rows, W) for flow.

    Raises:
        ReciprocalError: the video is shorter than the last index, or FFmpeg cannot decode it.
    """
    wanted, found = set(indices), {}
    try:
        with av.open(io.BytesIO(video), "r") as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.thread_count = "NONE", 1  # threads are the loader's business
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found[number] = _pixels(frame, modality)
                if len(found) == len(wanted):
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise ReciprocalError(f"FFmpeg cannot decode this {modality} video: {error}") from error
    if len(found) < len(wanted):
        raise ReciprocalError(f"the {modality} video has no frame {max(wanted)}: its record is wrong")
    return np.stack([found[i] for i in indices])


class ReferenceDecoder:
    """The oracle as a loader's backend: clips one by one, ``threads`` at a time (FFmpeg and torch release the GIL)."""

    def __init__(self, modalities: Sequence[str], clip: ClipConfig, flow_bound_px: float, *, threads: int = 1) -> None:
        self._modalities, self._clip, self._bound = tuple(modalities), clip, flow_bound_px
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    def _row(self, row: tuple[Mapping[str, bytes], ClipPlan, int]) -> dict[str, torch.Tensor]:
        members, plan, _ = row
        return {
            m: prepare_frames(m, decode_frames(members[m], m, plan.frames(m)), plan, self._clip, self._bound) for m in self._modalities
        }

    def decode(self, rows: Sequence[tuple[Mapping[str, bytes], ClipPlan, int]]) -> dict[str, torch.Tensor]:
        """Rows of (members by modality, plan, stored height) to (rows, F, C, crop, crop) float32, motion not yet stacked.

        Raises:
            ReciprocalError: a video cannot be decoded or is shorter than its record says.
        """
        clips = list(self._pool.map(self._row, rows) if self._pool else map(self._row, rows))
        return {m: torch.stack([clip[m] for clip in clips]) for m in self._modalities}

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def _pixels(frame: av.VideoFrame, modality: str) -> np.ndarray:
    if modality == "flow":
        return frame.to_ndarray(format="gray", dst_color_range=ColorRange.JPEG)
    return frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG, interpolation=_EXACT)
