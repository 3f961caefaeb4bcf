"""Time on the wall, and what the profiler saw: kernels, launches, copies and waits."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from jobs.bench.gpu.settings import Settings

_WARM_CALLS = 3  # kernels are chosen, memory is allocated
_ROUND_S = 0.25
_ROUNDS = 3
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx")
_MARKS = ("Optimizer.", "ProfilerStep", "## Call")  # shown on the device's line, but no work of its own
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def seconds(work: Callable[[], object], settings: Settings, warm: int = _WARM_CALLS) -> float:
    """Seconds of one call: the median of three rounds of a quarter second or one call each, after a few calls."""
    for _ in range(warm):
        work()
    settings.synchronise()
    calls, taken = 1, []
    start_s = time.perf_counter()
    work()
    settings.synchronise()
    if not settings.tiny:
        calls = max(1, min(200, round(_ROUND_S / max(time.perf_counter() - start_s, 1e-6))))
    for _ in range(1 if settings.tiny else _ROUNDS):
        start_s = time.perf_counter()
        for _ in range(calls):
            work()
        settings.synchronise()
        taken.append((time.perf_counter() - start_s) / calls)
    return statistics.median(taken)


def profiled(work: Callable[[], object], settings: Settings, top: int = 0) -> dict[str, Any]:
    """What one call of ``work`` does on the device, by torch's profiler.

    Returns:
        kernel_ms (sum over kernels, which may overlap), kernels (those that ran, also out of a graph), launches (of
        single kernels by the host), graph_launches, waits (of the host for the device), copies by kind; with ``top``
        the kernels that took most time: name, count, milliseconds. On the CPU nothing but zeros.
    """
    work()
    settings.synchronise()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if settings.cuda else [])
    with profile(activities=activities) as profiler:
        work()
        settings.synchronise()
    kernel_ms: dict[str, float] = collections.defaultdict(float)
    ran: dict[str, int] = collections.Counter()
    calls: dict[str, int] = collections.Counter()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    for event in profiler.profiler.kineto_results.events():
        name = event.name()
        if name.startswith(_MARKS):
            continue
        if event.device_type() == torch.autograd.DeviceType.CUDA:
            kernel_ms[name] += event.duration_ns() / 1e6
            ran[name] += 1
        else:
            calls[name] += 1
    copies = {name: ran.pop(name) for name in list(ran) if name.startswith(("Memcpy", "Memset"))}
    copied_ms = sum(kernel_ms.pop(name) for name in copies)
    waits = sum(calls[name] for name in _WAITS) - 1 if settings.cuda else 0  # our own at the end
    found: dict[str, Any] = {
        "kernel_ms": sum(kernel_ms.values()),
        "copy_ms": copied_ms,
        "kernels": sum(ran.values()),
        "launches": sum(count for name, count in calls.items() if name.startswith(_LAUNCHES)),
        "graph_launches": calls["cudaGraphLaunch"],
        "waits": waits,
        "items": calls["aten::item"],
        "copies": copies,
    }
    if top:
        longest = sorted(kernel_ms, key=lambda name: -kernel_ms[name])[:top]
        found["top"] = [[name[:200], ran[name], round(kernel_ms[name], 3)] for name in longest]
    return found
