"""Forward + backward of the fast path against the literal one: interleaved for times and values, in separate processes
for peak memory.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import logging
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from torch import Tensor

from jobs.bench.models.networks import Inputs, Subject, step_loss
from pipeline.models.interface import ActionModel

log = logging.getLogger("jobs.bench.models.command")


TOLERANCE = 1e-4
"""Largest relative difference of the two paths in float32."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Milliseconds of a forward and backward pass of one clip (median and minimum over the rounds), and the difference
    of the paths.
    """

    fast_ms: float
    fast_best_ms: float
    literal_ms: float | None = None
    literal_best_ms: float | None = None
    max_abs_diff: float | None = None
    """Largest absolute difference of the scores."""
    relative_diff: float | None = None
    """The same, divided by the largest absolute score."""
    gradient_relative_diff: float | None = None
    """Norm of the difference of all gradients, divided by their norm."""
    float64_gradient_relative_diff: float | None = None
    """The same with both paths in float64. This and the next two are measured only if the float32 gradients differ by
    more than ``TOLERANCE``.
    """
    fast_gradient_error: float | None = None
    """The fast path in float32 against the literal one in float64."""
    literal_gradient_error: float | None = None
    """The literal path in float32 against itself in float64: the error of float32 itself."""

    @property
    def speedup(self) -> float | None:
        """Ratio of the medians, literal to fast."""
        return None if self.literal_ms is None else self.literal_ms / self.fast_ms


def compare(subject: Subject, rounds: int) -> Comparison:
    """Time both paths on the CPU with the same weights and inputs, interleaved, so that other load affects both alike.
    The values are those of one warm-up round.
    """
    torch.manual_seed(0)
    fast = subject.build(literal=False, device="cpu")
    inputs = subject.inputs(fast, 1, "cpu")
    models = {"fast": fast}
    if subject.has_literal():
        models["literal"] = subject.build(literal=True, device="cpu")
        models["literal"].load_state_dict(fast.state_dict(), assign=True)  # one set of weights in memory
    taken: dict[str, list[float]] = {name: [] for name in models}
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for round_number in range(rounds + 1):
        for name, model in models.items():
            taken[name].append(_timed(model, inputs, found.setdefault(name, ([], [])) if round_number == 0 else None))
    ms = {name: [1000 * s for s in seconds[1:]] for name, seconds in taken.items()}
    if "literal" not in models:
        return Comparison(statistics.median(ms["fast"]), min(ms["fast"]))
    (scores, gradients), (true_scores, true_gradients) = found["fast"], found["literal"]
    apart = max(float((a - b).abs().max()) for a, b in zip(scores, true_scores, strict=True))
    gradients_apart = relative(gradients, true_gradients)
    errors: tuple[float | None, ...] = (None, None, None)
    if gradients_apart > TOLERANCE:
        models.clear()
        exact = _float64_gradients(subject, True, fast, inputs)
        errors = (
            relative(_float64_gradients(subject, False, fast, inputs), exact),
            relative(gradients, exact),
            relative(true_gradients, exact),
        )
    return Comparison(
        statistics.median(ms["fast"]),
        min(ms["fast"]),
        statistics.median(ms["literal"]),
        min(ms["literal"]),
        max_abs_diff=apart,
        relative_diff=apart / max(float(s.abs().max()) for s in true_scores),
        gradient_relative_diff=gradients_apart,
        float64_gradient_relative_diff=errors[0],
        fast_gradient_error=errors[1],
        literal_gradient_error=errors[2],
    )


def peak_memory_mb(subject: Subject, literal: bool, threads: int) -> tuple[float, float] | None:
    """Peak memory of a new process that does one forward and backward pass, and its memory before the pass, in MB.

    The peak is the kernel's high-water mark of resident memory, including Python, torch and the weights. None, with a
    warning in the log, if the process died, most likely for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    with _freed_at_once(), concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_one_pass_mb, subject, literal, threads).result()
        except BrokenProcessPool:
            log.warning(
                "%s, %s: the process that measures memory died; too little memory?",
                subject.name,
                "literal" if literal else "fast",
            )
            return None


@contextlib.contextmanager
def _freed_at_once() -> Iterator[None]:
    """Processes started in this context return every large block to the system as soon as it is freed.

    Otherwise glibc raises its mmap threshold with use and keeps holes in the heap, and the peaks of equal passes differ
    by 150 MB.
    """
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = "131072"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _one_pass_mb(subject: Subject, literal: bool, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = subject.build(literal, device="cpu")
    inputs = subject.inputs(model, 1, "cpu")
    before_mb = _resident_mb("VmRSS")
    step_loss(model, inputs).backward()
    return _resident_mb("VmHWM"), before_mb


def _resident_mb(field: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    # Not Linux. (On Linux ru_maxrss would start at the parent's peak, which survives exec.)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _timed(model: ActionModel, inputs: Inputs, found: tuple[list[Tensor], list[Tensor]] | None) -> float:
    for tensor in (*model.parameters(), *inputs.values()):
        tensor.grad = None
    gc.collect()
    start_s = time.perf_counter()
    loss = step_loss(model, inputs, None if found is None else found[0])
    loss.backward()
    seconds = time.perf_counter() - start_s
    if found is not None:
        found[1].extend(
            tensor.grad.clone() for tensor in (*model.parameters(), *inputs.values()) if tensor.grad is not None
        )
    return seconds


def _float64_gradients(subject: Subject, literal: bool, model: ActionModel, inputs: Inputs) -> list[Tensor]:
    """Gradients of one path in float64, at the same weights and inputs."""
    wide = subject.build(literal, device="cpu")
    wide.load_state_dict(model.state_dict())
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    _timed(wide.double(), {m: x.detach().double().requires_grad_(x.requires_grad) for m, x in inputs.items()}, found)
    return found[1]


def relative(tensors: list[Tensor], true: list[Tensor]) -> float:
    """Norm of the difference divided by the norm of ``true``, in float64."""
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(tensors, true, strict=True))
    return (apart / sum(float(b.double().square().sum()) for b in true)) ** 0.5
