"""Which decoder a configuration means, and where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.decoding.base import Decoder, Device
from pipeline.errors import ConfigError


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
    """What ``data.decoder`` means on a device."""
    if data.decoder == "auto":
        return "dali" if device == "gpu" else "ffmpeg"
    return data.decoder


def make_decoder(
    data: DataConfig,
    clip: ClipConfig,
    modalities: Sequence[str],
    flow_bound_px: float,
    *,
    max_rows: int,
    device: Device,
    device_id: int = 0,
    channels_last: bool = False,
) -> Decoder:
    """The backend that ``data.decoder`` names.

    Args:
        max_rows: most rows that it gets at once.
        channels_last: memory order (rows, F, H, W, C).

    Raises:
        ConfigError: DALI cannot be imported.
    """
    threads, kind = data.decode_threads or rank_cores(), backend(data, device)
    if kind == "reference":
        from pipeline.data.decoding.reference_decoder import ReferenceDecoder  # here: its PyAV is not everywhere

        return ReferenceDecoder(modalities, clip, flow_bound_px, threads=threads, channels_last=channels_last)
    if kind == "ffmpeg":
        from pipeline.data.decoding.ffmpeg import FFmpegDecoder  # here, so that prediction needs no compiler

        return FFmpegDecoder(modalities, clip, flow_bound_px, threads=threads, channels_last=channels_last)
    try:
        from pipeline.data.decoding.dali import DaliDecoder  # here, so that machines without DALI can read and predict
    except ImportError as error:
        fix = f"DALI cannot be imported ({error}): pip install nvidia-dali-cuda130, or use data.decoder=ffmpeg"
        raise ConfigError("data.decoder", data.decoder, fix) from error
    return DaliDecoder(
        modalities,
        clip,
        flow_bound_px,
        max_rows=max_rows,
        threads=threads,
        device=device,
        device_id=device_id,
        channels_last=channels_last,
    )
