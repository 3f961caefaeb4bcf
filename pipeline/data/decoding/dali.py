"""The DALI graph: encoded members and plans in, normalised float clips out, on the CPU or the GPU.

One function, ``clip_ops``, holds the picture operations, the same for training and testing: only the plans differ.
``pipeline.data.decoding.reference`` is its oracle and states the values. This is the only module that imports DALI;
nothing imports it unless a loader with ``data.decoder = dali`` is made, which ``auto`` means on a GPU.

Observed with DALI 2.4: ``frames=`` takes any order and repeats; a short batch may be fed where fewer samples are
good; ``fn.resize`` with antialias uses the same widened triangle as torch's and Pillow's, and differs only at the rim
of a shrunk picture, where it repeats the edge and they renormalise the filter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import nvidia.dali
import nvidia.dali.fn
import nvidia.dali.math
import nvidia.dali.pipeline
import nvidia.dali.types
import torch
from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray

from pipeline.config.data import ClipConfig
from pipeline.data.decoding.base import Device, Row
from pipeline.data.decoding.dali_inputs import check_codec, graph_inputs
from pipeline.data.decoding.norms import bgr, mean_std
from pipeline.dataset.sample import DIFF_BOUND, ONLINE_DIFF, stored_modalities
from pipeline.errors import ReciprocalError

VERSION = tuple(int(part) for part in nvidia.dali.__version__.split(".")[:2])
fn: Any = nvidia.dali.fn  # the wheel's stubs name neither constants nor per-sample arguments
types: Any = nvidia.dali.types
pipeline_def: Any = nvidia.dali.pipeline.pipeline_def


def _crops(video: Any, start: Any, extent: Any, clip: ClipConfig) -> Any:
    cut = fn.slice(video, start=start, shape=extent, axis_names="HW")
    return fn.resize(
        cut, size=[clip.crop, clip.crop], interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT
    )


def _normalised(
    modality: str, pictures: Any, flip: Any, std: Any, clip: ClipConfig, flow_bound_px: float, layout: str
) -> Any:
    mean, _ = mean_std(modality, clip, flow_bound_px)
    return fn.crop_mirror_normalize(pictures, mirror=flip, mean=mean, std=std, dtype=types.FLOAT, output_layout=layout)


def clip_ops(
    member: str,
    modalities: Sequence[str],
    source: Callable[..., list[Any]],
    clip: ClipConfig,
    flow_bound_px: float,
    device: Device,
    jitter: bool,
    layout: str,
) -> dict[str, Any]:
    """Graph of one stored member for one batch: by modality (F, C, crop, crop) float32 per sample (memory order as
    ``layout``).

    Args:
        modalities: what is made of this member: itself, or of rgb also (or only) diff-online.
        source: external inputs by name: ``MEMBER_encoded``, bytes (1-D uint8); ``MEMBER_frames`` int32 (F,) frames to
            decode; ``start`` int32 (4,), top, left of the box in stored pixels, and the same in the lower half of a
            flow picture; ``extent`` int32 (2,) height, width of the box; ``flip`` int32, 1 mirrors; ``flow_std``
            float32 (2,), u's negative where the clip is mirrored, which negates it; ``rgb_takes`` (T,), ``earlier`` and
            ``later`` (L,) int32 positions among the decoded frames; ``jitter`` float32 (3, 4).
    """
    (encoded, frames), (start, extent, flip) = (
        source(f"{member}_encoded", f"{member}_frames"),
        source("start", "extent", "flip"),
    )
    video = fn.decoders.video(
        encoded, frames=frames, pad_mode="edge", device="mixed" if device == "gpu" else "cpu", affine=False
    )
    if member == "flow":
        # u above v in one grey picture, decoded to three equal channels. The halves are cut apart before they are
        # resized, or the filter would mix u and v along the seam.
        grey = fn.slice(video, start=0, shape=1, axis_names="C")
        pictures = fn.cat(*(_crops(grey, start[i : i + 2], extent, clip) for i in (0, 2)), axis_name="C")
        return {member: _normalised(member, pictures, flip, source("flow_std")[0], clip, flow_bound_px, layout)}
    if bgr(clip):
        video = fn.color_space_conversion(video, image_type=types.RGB, output_type=types.BGR)
    codes, out = _crops(video, start[0:2], extent, clip), {}
    for modality in modalities:
        pictures, (_, std) = codes, mean_std(modality, clip, flow_bound_px)
        if modality == ONLINE_DIFF:
            earlier, later = (fn.sequence_rearrange(codes, new_order=take) for take in source("earlier", "later"))
            pictures = fn.reshape(
                nvidia.dali.math.clamp(later - earlier, -float(DIFF_BOUND), float(DIFF_BOUND)), layout="FHWC"
            )
        elif modality == "rgb" and ONLINE_DIFF in modalities:
            pictures = fn.sequence_rearrange(codes, new_order=source("rgb_takes")[0])
        if modality == "rgb" and jitter:
            changed = fn.coord_transform(pictures, MT=source("jitter")[0])
            pictures = fn.reshape(nvidia.dali.math.clamp(changed, 0.0, 255.0), layout="FHWC")
        out[modality] = _normalised(modality, pictures, flip, std, clip, flow_bound_px, layout)
    return out


class DaliDecoder:
    """Turns encoded samples and plans into clips; builds its pipeline once and keeps it until ``close``.

    Args:
        modalities: outputs, in order.
        max_rows: most rows that ``decode`` gets at once.
        threads: DALI's CPU threads.
        device, device_id: where to decode and augment.
        channels_last: memory of the outputs in the order (rows, F, H, W, C); shapes stay.
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
        channels_last: bool = False,
    ) -> None:
        self._modalities, self._clip, self._bound, self._device = tuple(modalities), clip, flow_bound_px, device
        self._members, self._last = stored_modalities(modalities), channels_last
        self._settings = {
            "batch_size": max_rows,
            "num_threads": threads,
            "device_id": device_id if device == "gpu" else None,
        }
        self._device_id = device_id
        self._names: list[str] = []

        # One batch at a time, run by the loader's own thread, which works ahead: DALI's queue would be a second one.
        @pipeline_def(prefetch_queue_depth=1, **self._settings)
        def graph() -> tuple[Any, ...]:
            nodes: dict[str, Any] = {}

            def source(*names: str) -> list[Any]:
                for name in names:
                    if name not in nodes:
                        nodes[name] = fn.external_source(name=name, device="cpu", batch=True)
                return [nodes[name] for name in names]

            out: dict[str, Any] = {}
            for member in self._members:
                made = [m for m in self._modalities if stored_modalities((m,)) == (member,)]
                layout = "FHWC" if channels_last else "FCHW"
                out.update(clip_ops(member, made, source, clip, flow_bound_px, device, clip.jitters, layout))
            self._names = list(nodes)
            return tuple(out[m] for m in self._modalities)

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
        for members, _, _ in rows:
            for member in self._members:
                check_codec(members[member], member, cpu=self._device == "cpu")
        outputs = self._run(self._pipeline, self._names, rows)
        return {m: self._to_torch(output) for m, output in zip(self._modalities, outputs, strict=True)}

    def submit(self, rows: Sequence[Row]) -> Callable[[], dict[str, torch.Tensor]]:
        """``decode(rows)``, when the result is called."""
        return lambda: self.decode(rows)

    def decode_share(self, rows: Sequence[Row]) -> float:
        """Share of the time of ``decode(rows)`` that goes into decoding videos, in 0..1.

        Runs the rows through a second graph that only decodes, and through the whole one, each twice: the first run
        gives buffers their sizes. The second graph is freed again.
        """

        @pipeline_def(prefetch_queue_depth=1, **self._settings)
        def graph() -> tuple[Any, ...]:
            kind = "mixed" if self._device == "gpu" else "cpu"
            return tuple(
                fn.decoders.video(
                    fn.external_source(name=f"{m}_encoded", device="cpu", batch=True),
                    frames=fn.external_source(name=f"{m}_frames", device="cpu", batch=True),
                    pad_mode="edge",
                    device=kind,
                    affine=False,
                )
                for m in self._members
            )

        decoding = graph()
        decoding.build()
        names = [f"{m}_{what}" for m in self._members for what in ("encoded", "frames")]
        decode_s, whole_s = (
            [self._timed(lambda: self._run(decoding, names, rows)) for _ in range(2)][-1],
            [self._timed(lambda: self.decode(rows)) for _ in range(2)][-1],
        )
        return min(1.0, decode_s / whole_s)

    def _timed(self, work: Callable[[], object]) -> float:
        began_s = time.perf_counter()
        held = work()
        if self._device == "gpu":
            torch.cuda.synchronize(self._device_id)
        del held
        return time.perf_counter() - began_s

    def _run(self, pipeline: Any, names: Sequence[str], rows: Sequence[Row]) -> Any:
        inputs = graph_inputs(rows, self._modalities, self._clip, self._bound)
        try:
            for name in names:
                pipeline.feed_input(name, inputs[name])
            return pipeline.run()
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # DALI maps its errors to all of these
            raise ReciprocalError(f"DALI failed: {error}") from error

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
        return tensor.permute(0, 1, 4, 2, 3) if self._last else tensor

    def close(self) -> None:
        """Free DALI's threads and memory; the decoder cannot be used again."""
        self._pipeline = None
