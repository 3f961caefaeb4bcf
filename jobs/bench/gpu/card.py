"""The card: name, driver, ceilings of copying and multiplying, cost of a launch, and its video decoder."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from collections.abc import Iterator

import torch

from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import seconds
from jobs.bench.machine import hardware, versions
from jobs.bench.models.gpu import matrix_rate
from pipeline.data.decoding.nvdec import CODECS, decoder_caps

_TINY_LAUNCHES = 500


def measure(settings: Settings) -> Iterator[Row]:
    """Each row by itself: a machine may lack nvidia-smi or the decoder's library."""
    yield from guarded(
        settings, "machine", lambda: hardware() | versions("torch", "triton", "numpy") | {"os": platform.platform()}
    )
    yield from guarded(settings, "nvidia-smi", _smi)
    if settings.cuda:
        yield from guarded(settings, "properties", lambda: _properties(settings))
    yield from guarded(settings, "copy", lambda: _copy(settings))
    side = 256 if settings.tiny else 8192
    yield from guarded(
        settings, f"bf16 product of {side}", lambda: {"tflops": matrix_rate(settings.device, 2, side) / 1e12}
    )
    yield from guarded(settings, "launch", lambda: _launch(settings))
    for codec in CODECS:
        yield from guarded(settings, f"NVDEC {codec}", lambda codec=codec: dataclasses.asdict(decoder_caps(codec)))


def _smi() -> Row:
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
    )
    return {"returned": done.returncode, "says": (done.stdout + done.stderr).strip()[:300]}


def _properties(settings: Settings) -> Row:
    found = torch.cuda.get_device_properties(settings.device)
    return {
        "multiprocessors": found.multi_processor_count,
        "l2_mb": found.L2_cache_size / 1e6,
        "memory_gb": found.total_memory / 1e9,
        "cudnn": torch.backends.cudnn.version(),
        "cuda": torch.version.cuda,
    }


def _copy(settings: Settings) -> Row:
    source = torch.empty(1 << (20 if settings.tiny else 30), dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * source.numel() / seconds(lambda: target.copy_(source), settings) / 1e9}


def _launch(settings: Settings) -> Row:
    x = torch.zeros(8, device=settings.device)

    def launches() -> None:
        for _ in range(_TINY_LAUNCHES):
            x.add_(1)

    row = {"us_a_launch": 1e6 * seconds(launches, settings) / _TINY_LAUNCHES}
    if settings.cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launches()
        row["us_a_launch_in_a_graph"] = 1e6 * seconds(graph.replay, settings) / _TINY_LAUNCHES
    return row
