"""The baseline of ``jobs.bench loader``, how video models are usually fed: webdataset, PyAV, torch's DataLoader.

Written as these libraries recommend, so that beating it means something: one process a core and one thread in each, a
seek to the keyframe before the clip, one swscale context for all frames, only the wanted part of a picture is ever
copied, bytes until after the resize (torch's vectorised one), stacks gathered as bytes, one pass from bytes to
normalised floats, batches made in the workers' shared memory, persistent workers, two batches ahead for each.

It takes the same clips, crops and flips as our loader (``pipeline.data.sampling.clips`` decides them from seed, epoch
and key) and gives the same values, but for the rounding of its resize to whole codes: ``TOLERANCE_CODES``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
import webdataset.compat
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch.nn import functional
from webdataset.gopen import gopen_schemes

from jobs.bench.loader.tars import open_object, shard_urls
from jobs.bench.loader.workload import Workload
from pipeline.common.media import STORED_FORMATS, open_media
from pipeline.config.data import ClipConfig
from pipeline.data.decoding.reference import bgr, mean_std
from pipeline.data.sampling.boxes import Box
from pipeline.data.sampling.clips import sample_plans, stack_gather
from pipeline.dataset.sample import extension

TOLERANCE_CODES = 1.25
"""Largest difference from the reference loader, in stored 8-bit codes: the resize rounds to whole codes once a
direction.
"""

SHUFFLE = 32
"""Samples in each worker's shuffle buffer. Full in the steady state, whatever its size, it costs memory alone."""

_PREFETCH = 2  # batches ahead, for each worker
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    gopen_schemes["s3"] = open_object


@dataclasses.dataclass(frozen=True)
class ToClip:
    """One webdataset sample to one training clip."""

    modalities: tuple[str, ...]
    clip: ClipConfig
    flow_bound_px: float
    seed: int
    exact_colour: bool = True
    """Colours as our loaders give them. False: PyAV's default conversion, which most people use: faster, chroma
    repeated and rounded down.
    """

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Key and (T, C, crop, crop) float32 by modality."""
        key, facts = sample["__key__"], json.loads(sample["json"])
        plan, *_ = sample_plans(
            key,
            facts["num_frames"],
            facts["height"],
            facts["width"],
            self.clip,
            self.modalities,
            train=True,
            seed=self.seed,
            epoch=0,
        )
        made: dict[str, Any] = {"key": key}
        for modality in self.modalities:
            frames = decode_from_keyframe(sample[extension(modality)], plan.frames(modality))
            if modality == "flow":
                codes = torch.from_numpy(_luma_halves(frames, plan.box, facts["height"]))
            else:
                codes = torch.from_numpy(self._colours(frames, plan.box)).permute(0, 3, 1, 2)
            made[modality] = self._finish(modality, codes, plan.flip)
        return made

    def _colours(self, frames: Sequence[av.VideoFrame], box: Box) -> np.ndarray:
        """(L, height, width, 3) of the box; a new context for every frame would cost more than the conversion."""
        convert, cut = VideoReformatter(), np.empty((len(frames), box.height, box.width, 3), np.uint8)
        exact: dict[str, Any] = (
            {"src_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.JPEG, "interpolation": _EXACT}
            if self.exact_colour
            else {}
        )
        for frame, place in zip(frames, cut, strict=True):
            rows = _first_plane(convert.reformat(frame, format="rgb24", threads=1, **exact))[
                box.top : box.top + box.height, 3 * box.left : 3 * (box.left + box.width)
            ]
            pixels = rows.reshape(box.height, box.width, 3)
            place[:] = pixels[..., ::-1] if bgr(self.clip) else pixels
        return cut

    def _finish(self, modality: str, codes: torch.Tensor, flip: bool) -> torch.Tensor:
        clip, mean, std = self.clip, *(torch.tensor(v) for v in mean_std(modality, self.clip, self.flow_bound_px))
        codes = functional.interpolate(
            codes, size=(clip.crop, clip.crop), mode="bilinear", align_corners=False, antialias=True
        )
        if flip:
            codes = codes.flip(-1)
            if modality == "flow":
                std = std * torch.tensor([-1.0, 1.0])
        if modality != "rgb":
            codes = codes[torch.from_numpy(stack_gather(clip))].flatten(1, 2)
            mean, std = mean.repeat(clip.stack), std.repeat(clip.stack)
        out = torch.empty(codes.shape)
        return out.copy_(codes).sub_(mean.view(-1, 1, 1)).mul_(1 / std.view(-1, 1, 1))


def _first_plane(frame: av.VideoFrame) -> np.ndarray:
    """(rows, bytes of a row with its padding) uint8, not copied."""
    plane: Any = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


def decode_from_keyframe(video: bytes, wanted: Sequence[int]) -> list[av.VideoFrame]:
    """The frames with these ascending numbers (repeats allowed), decoded from the keyframe at or before the first."""
    found: dict[int, av.VideoFrame] = {}
    with open_media(video, formats=STORED_FORMATS) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        assert stream.average_rate is not None
        assert stream.time_base is not None
        ticks = 1 / (stream.average_rate * stream.time_base)
        container.seek(round(wanted[0] * ticks), stream=stream)
        needed = set(wanted)
        for frame in container.decode(stream):
            number = round((frame.pts or 0) / ticks)
            if number in needed:
                found[number] = frame
            if number >= wanted[-1]:
                break
    return [found[i] for i in wanted]


def _luma_halves(frames: Sequence[av.VideoFrame], box: Box, height: int) -> np.ndarray:
    """(L, 2, height, width) codes of u and v in the box: the luma plane itself, which is stored over the full range."""
    cut = np.empty((len(frames), 2, box.height, box.width), np.uint8)
    for frame, place in zip(frames, cut, strict=True):
        rows = _first_plane(frame)
        for half, top in enumerate((box.top, height + box.top)):
            place[half] = rows[top : top + box.height, box.left : box.left + box.width]
    return cut


class BaselineLoader:
    """Passes over some tars, by worker processes that stay alive between passes.

    Args:
        urls: tars, as from ``shard_urls``; worker w reads every ``workers``-th from the w-th on, in an order of its
            own.
        to_clip: what is made of a sample; pickled to the workers.
        workers: processes; 0: all in this one.
    """

    def __init__(
        self,
        urls: Sequence[str],
        to_clip: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        shards = webdataset.compat.WebDataset(list(urls), shardshuffle=len(urls), seed=seed)
        samples: Any = shards.shuffle(SHUFFLE, initial=SHUFFLE).map(to_clip)
        # spawn: a process that has threads (DALI's, boto3's) must not be forked.
        extra: dict[str, Any] = (
            {"persistent_workers": True, "prefetch_factor": _PREFETCH, "multiprocessing_context": "spawn"}
            if workers
            else {}
        )
        gopen_schemes["s3"] = open_object
        self._loader: torch.utils.data.DataLoader[Any] | None = torch.utils.data.DataLoader(
            samples, batch_size=batch_size, num_workers=workers, worker_init_fn=_start_worker, **extra
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of one pass: ``key`` (list of B) and (B, T, C, crop, crop) float32 by modality. To be read to its
        end: what is left behind keeps the workers busy.
        """
        if self._loader is None:
            raise RuntimeError("the baseline is closed")
        return iter(self._loader)

    def close(self) -> None:
        """End the workers."""
        self._loader = None


def baseline_loader(workload: Workload, *, exact_colour: bool) -> BaselineLoader:
    """For a bench's clips, with as many processes as ours has threads; they start when it is first read."""
    to_clip = ToClip(workload.modalities, workload.clip, workload.index.flow_bound_px, workload.seed, exact_colour)
    return BaselineLoader(
        shard_urls(workload.storage, workload.tars),
        to_clip,
        batch_size=workload.batch_size,
        workers=workload.threads,
        seed=workload.seed,
    )


def buffered_bytes(batch_bytes: int, workers: int) -> int:
    """Shared memory that the workers' batches may take: those ahead, one being made by each, and the one in use."""
    return batch_bytes * (workers * (_PREFETCH + 1) + 1)
