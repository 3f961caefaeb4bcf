"""The DALI graph: encoded members and plans in, normalised float clips out, on the CPU or the GPU.

One function, ``clip_ops``, holds the picture operations, the same for training and testing: only the plans differ.
``pipeline.data.reference`` is its oracle and states the values. This is the only module that imports DALI; nothing
imports it unless a loader with ``data.loader = dali`` is made.

Held against DALI 2.4: ``frames=`` takes any order and repeats; a short batch may be fed where fewer samples are
good; ``fn.resize`` with antialias uses the same widened triangle as torch's and Pillow's, and differs only at the rim
of a shrunk picture, where it repeats the edge and they renormalise the filter.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import av
import av.error
import numpy as np
import nvidia.dali.fn
import nvidia.dali.pipeline
import nvidia.dali.types
import torch
from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray

from pipeline.config.data import ClipConfig
from pipeline.data.decoders import Device, Row
from pipeline.data.reference import bgr, mean_std
from pipeline.errors import ConfigError, ReciprocalError

fn: Any = nvidia.dali.fn  # the wheel's stubs name neither constants nor per-sample arguments
types: Any = nvidia.dali.types
pipeline_def: Any = nvidia.dali.pipeline.pipeline_def

CPU_CODECS = ("vp9", "vp8", "mjpeg")


def check_codec(video: bytes, modality: str) -> None:
    """Refuse a video that DALI's CPU backend cannot decode.

    Raises:
        ConfigError: names the codec and the three ways out.
        ReciprocalError: FFmpeg finds no video in it.
    """
    try:
        with av.open(io.BytesIO(video), "r") as container:
            codec = container.streams.video[0].codec_context.codec.canonical_name
    except (av.error.FFmpegError, IndexError) as error:
        raise ReciprocalError(f"a {modality} member holds no video: {error}") from error
    if codec not in CPU_CODECS:
        raise ConfigError(
            "data.loader",
            "dali",
            f"{modality} is stored as {codec}, and DALI decodes only {', '.join(CPU_CODECS)} on the CPU: "
            "use data.loader=reference, or a GPU, or preprocess again (shards are VP9)",
        )


def clip_ops(modality: str, member: Sequence[Any], place: Sequence[Any], clip: ClipConfig, flow_bound_px: float, device: Device) -> Any:
    """Graph of one modality for one batch: (F, C, crop, crop) float32 per sample.

    Args:
        member: nodes of this modality: bytes of the member (1-D uint8); int32 (F,) frames to decode; float32 (C,) std,
            u's negative where the clip is mirrored, which negates it.
        place: nodes common to all modalities: int32 (4,) start (top, left of the box in stored pixels, and the same in
            the lower half of a flow picture); int32 (2,) extent (height, width of the box); int32 flip, 1 mirrors.
    """
    encoded, frames, std = member
    start, extent, flip = place
    video = fn.decoders.video(encoded, frames=frames, pad_mode="edge", device="mixed" if device == "gpu" else "cpu", affine=False)
    if modality == "flow":
        # u above v in one grey picture, decoded to three equal channels. The halves are cut apart before they are
        # resized, or the filter would mix u and v along the seam.
        grey = fn.slice(video, start=0, shape=1, axis_names="C")
        halves = [fn.slice(grey, start=start[i : i + 2], shape=extent, axis_names="HW") for i in (0, 2)]
        pictures = fn.cat(*halves, axis_name="C")
    else:
        pictures = fn.slice(video, start=start[0:2], shape=extent, axis_names="HW")
        if bgr(clip):
            pictures = fn.color_space_conversion(pictures, image_type=types.RGB, output_type=types.BGR)
    resized = fn.resize(pictures, size=[clip.crop, clip.crop], interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT)
    mean, _ = mean_std(modality, clip, flow_bound_px)
    return fn.crop_mirror_normalize(resized, mirror=flip, mean=mean, std=std, dtype=types.FLOAT, output_layout="FCHW")


class DaliDecoder:
    """Turns encoded samples and plans into clips; builds its pipeline once and keeps it until ``close``.

    Args:
        modalities: outputs, in order.
        max_rows: most rows that ``decode`` gets at once.
        threads: DALI's CPU threads.
        device, device_id: where to decode and augment.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        clip: ClipConfig,
        flow_bound_px: float,
        *,
        max_rows: int,
        threads: int,
        device: Device = "cpu",
        device_id: int = 0,
    ) -> None:
        self._modalities, self._clip, self._bound, self._device = tuple(modalities), clip, flow_bound_px, device
        self._device_id = device_id
        self._codec_checked = device == "gpu"

        # One batch at a time, run by the loader's own thread, which works ahead: DALI's queue would be a second one.
        @pipeline_def(batch_size=max_rows, num_threads=threads, device_id=device_id if device == "gpu" else None, prefetch_queue_depth=1)
        def graph() -> tuple[Any, ...]:
            def sources(*names: str) -> list[Any]:
                return [fn.external_source(name=name, device="cpu", batch=True) for name in names]

            place = sources("start", "extent", "flip")
            return tuple(
                clip_ops(m, sources(f"{m}_encoded", f"{m}_frames", f"{m}_std"), place, clip, flow_bound_px, device)
                for m in self._modalities
            )

        self._pipeline: Any = graph()
        self._pipeline.build()

    def decode(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Clips of some rows, motion not yet stacked.

        Args:
            rows: at most ``max_rows``.

        Returns:
            By modality (rows, F, C, crop, crop) float32 on the decoder's device; the memory is the caller's.

        Raises:
            ConfigError: a codec that the CPU backend lacks.
            ReciprocalError: DALI failed; its pipeline cannot be used again.
        """
        if not self._codec_checked:
            for modality in self._modalities:
                check_codec(rows[0][0][modality], modality)
            self._codec_checked = True
        boxes = [(plan.box, height) for _, plan, height in rows]
        self._feed("start", [np.array([b.top, b.left, b.top + height, b.left], np.int32) for b, height in boxes])
        self._feed("extent", [np.array([b.height, b.width], np.int32) for b, _ in boxes])
        self._feed("flip", [np.array(plan.flip, np.int32) for _, plan, _ in rows])
        for modality in self._modalities:
            std = np.array(mean_std(modality, self._clip, self._bound)[1], np.float32)
            mirrored = std * np.array([-1, 1], np.float32) if modality == "flow" else std
            self._feed(f"{modality}_encoded", [np.frombuffer(members[modality], np.uint8) for members, _, _ in rows])
            self._feed(f"{modality}_frames", [np.array(plan.frames(modality), np.int32) for _, plan, _ in rows])
            self._feed(f"{modality}_std", [mirrored if plan.flip else std for _, plan, _ in rows])
        try:
            outputs = self._pipeline.run()
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # DALI maps its errors to all of these
            raise ReciprocalError(f"DALI failed: {error}") from error
        return {m: self._to_torch(output) for m, output in zip(self._modalities, outputs, strict=True)}

    def _feed(self, name: str, arrays: list[np.ndarray]) -> None:
        self._pipeline.feed_input(name, arrays)

    def _to_torch(self, output: Any) -> torch.Tensor:
        dense = output.as_tensor()
        device = torch.device("cuda", self._device_id) if self._device == "gpu" else torch.device("cpu")
        tensor = torch.empty(tuple(dense.shape()), dtype=torch.float32, device=device)
        if self._device == "gpu":
            stream = torch.cuda.current_stream(device)
            feed_ndarray(dense, tensor, cuda_stream=stream)
            stream.synchronize()  # the batch goes to another thread, which knows nothing of this stream
        else:
            feed_ndarray(dense, tensor)
        return tensor

    def close(self) -> None:
        """Free DALI's threads and memory; the decoder cannot be used again."""
        self._pipeline = None
