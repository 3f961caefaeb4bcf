"""Which decoder a configuration means, and where it runs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from typing import Literal

import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.decoding.base import Decoder, Device
from pipeline.data.decoding.nvdec import decoder_caps
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

FFMPEG_CORES = 4
"""Cores of a rank from which ``auto`` decodes with FFmpeg though there is a GPU. NVDEC needs about 10 ms a video
whatever its size: 52 clips/s of RGB and flow on an H200. FFmpeg and our loops make about 40 on a core; two are left to
the rank.
"""
NVDEC_THREADS = 8
"""Threads that feed NVDEC at least: they wait more than they work. On an H200 one made 33 clips/s, 8 made 52."""
_LEAST_DALI = (2, 4)
_LEAST_PX = 128  # what NVDEC takes of VP9 where the driver cannot be asked


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


def backend(
    data: DataConfig, device: Device, least_px: int | None = None, device_id: int = 0
) -> Literal["dali", "ffmpeg", "reference"]:
    """What ``data.decoder`` means on a device.

    Args:
        least_px: shortest side of the stored pictures, where it is known.

    Raises:
        ConfigError: ``dali`` on a GPU that decodes no pictures as small as these.
    """
    kind = data.decoder
    if kind == "auto":
        kind = "dali" if device == "gpu" and rank_cores() < FFMPEG_CORES else "ffmpeg"
    if kind == "dali" and device == "gpu" and least_px is not None and least_px < (wanted := nvdec_least(device_id)):
        reason = f"NVDEC decodes VP9 from {wanted} x {wanted} pixels on, and the data set has pictures of {least_px}"
        if data.decoder == "dali":
            raise ConfigError("data.decoder", "dali", f"{reason}: use data.decoder=ffmpeg, or data.device=cpu")
        log.info("%s: FFmpeg decodes on the CPU", reason)
        return "ffmpeg"
    return kind


@functools.cache
def nvdec_least(device_id: int) -> int:
    """Least side in pixels of VP9 that the card's decoder takes."""
    torch.zeros(1, device=torch.device("cuda", device_id))  # a context, which the driver wants
    try:
        caps = decoder_caps("vp9")
    except OSError:
        return _LEAST_PX
    return max(caps.min_width, caps.min_height)


def decode_threads(kind: Literal["dali", "ffmpeg", "reference"], device: Device) -> int:
    """Threads of a decoder where the configuration names no number."""
    return max(rank_cores(), NVDEC_THREADS) if kind == "dali" and device == "gpu" else rank_cores()


def make_decoder(
    data: DataConfig,
    clip: ClipConfig,
    modalities: Sequence[str],
    flow_bound_px: float,
    *,
    max_rows: int,
    device: Device,
    device_id: int = 0,
    least_px: int | None = None,
    channels_last: bool = False,
    pinned: bool = False,
) -> Decoder:
    """The backend that ``data.decoder`` names.

    Args:
        max_rows: most rows that it gets at once.
        least_px: see ``backend``.
        channels_last: memory order (rows, F, H, W, C).
        pinned: clips of the FFmpeg decoder lie in page-locked memory, for copies to a GPU.

    Raises:
        ConfigError: DALI cannot be imported or is too old, or the GPU decodes no such pictures.
    """
    kind = backend(data, device, least_px, device_id)
    threads = data.decode_threads or decode_threads(kind, device)
    if kind == "reference":
        from pipeline.data.decoding.reference_decoder import ReferenceDecoder  # here: its PyAV is not everywhere

        return ReferenceDecoder(modalities, clip, flow_bound_px, threads=threads, channels_last=channels_last)
    if kind == "ffmpeg":
        from pipeline.data.decoding.ffmpeg import FFmpegDecoder  # here, so that prediction needs no compiler

        return FFmpegDecoder(
            modalities, clip, flow_bound_px, threads=threads, channels_last=channels_last, pinned=pinned
        )
    try:
        from pipeline.data.decoding.dali import VERSION, DaliDecoder  # here: machines without DALI can read and predict
    except ImportError as error:
        fix = f"DALI cannot be imported ({error}): pip install 'nvidia-dali-cuda130>=2.4', or use data.decoder=ffmpeg"
        raise ConfigError("data.decoder", data.decoder, fix) from error
    if VERSION < _LEAST_DALI:
        fix = f"DALI {VERSION[0]}.{VERSION[1]} is older than 2.4 and may read full-range grey as limited: update it"
        raise ConfigError("data.decoder", data.decoder, f"{fix}, or use data.decoder=ffmpeg")
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
