"""The backends behind one interface, and where they run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.clips import ClipPlan
from pipeline.data.index import SplitIndex
from pipeline.data.reference import ReferenceDecoder
from pipeline.errors import ConfigError

Device = Literal["cpu", "gpu"]
Row = tuple[Mapping[str, bytes], ClipPlan, int]
"""One clip to make: members by stored modality, plan, height of the stored picture in pixels."""


class Decoder(Protocol):
    """Turns rows into (rows, F, C, crop, crop) float32 by modality, motion not yet stacked."""

    def decode(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]: ...
    def submit(self, rows: Sequence[Row]) -> Callable[[], dict[str, torch.Tensor]]:
        """Begin ``decode(rows)``, as far as the backend can work beside its caller. The result waits for the end; it is called once."""
        ...

    def decode_share(self, rows: Sequence[Row]) -> float:
        """Share of the time of ``decode(rows)`` that goes into decoding videos, in 0..1; costs up to twice that time."""
        ...

    def close(self) -> None: ...


def resolve_device(wanted: Literal["auto", "cpu", "gpu"]) -> Device:
    """Where to decode: ``auto`` takes the GPU where torch sees one.

    Raises:
        ConfigError: ``gpu`` is asked for and torch sees none.
    """
    if wanted == "gpu" and not torch.cuda.is_available():
        raise ConfigError("data.device", wanted, "torch sees no GPU here: use auto or cpu")
    if wanted == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return wanted


def rank_cores() -> int:
    """Cores this process may use: its affinity, and OMP_NUM_THREADS, which Ray sets to the CPUs a worker reserved."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def backend(data: DataConfig, device: Device) -> Literal["dali", "ffmpeg", "reference"]:
    """What ``data.loader`` means on a device."""
    if data.loader == "auto":
        return "dali" if device == "gpu" else "ffmpeg"
    return data.loader


def make_decoder(
    data: DataConfig,
    clip: ClipConfig,
    index: SplitIndex,
    *,
    max_rows: int,
    device: Device,
    device_id: int = 0,
    channels_last: bool = False,
) -> Decoder:
    """The backend that ``data.loader`` names.

    Args:
        max_rows: most rows that it gets at once.
        channels_last: memory order (rows, F, H, W, C).

    Raises:
        ConfigError: DALI cannot be imported.
    """
    threads, kind = data.decode_threads or rank_cores(), backend(data, device)
    if kind == "reference":
        return ReferenceDecoder(index.modalities, clip, index.flow_bound_px, threads=threads, channels_last=channels_last)
    if kind == "ffmpeg":
        from pipeline.data.ffmpeg_decoder import FFmpegDecoder  # here, so that prediction needs no compiler

        return FFmpegDecoder(index.modalities, clip, index.flow_bound_px, threads=threads, channels_last=channels_last)
    try:
        from pipeline.data.dali_graph import DaliDecoder  # here, so that machines without DALI can read and predict
    except ImportError as error:
        fix = f"DALI cannot be imported ({error}): pip install nvidia-dali-cuda130, or use data.loader=ffmpeg"
        raise ConfigError("data.loader", data.loader, fix) from error
    return DaliDecoder(
        index.modalities, clip, index.flow_bound_px, max_rows=max_rows, threads=threads, device=device, device_id=device_id, channels_last=channels_last
    )
