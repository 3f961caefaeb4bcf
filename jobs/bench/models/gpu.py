"""Full-size networks on a GPU: clips/s of training in bf16, compiled and eager, and frames/s of inference."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.models.networks import Subject, step_loss
from jobs.bench.models.subjects import SUBJECTS
from pipeline.config.model import CRNConfig
from pipeline.models.interface import fuse
from pipeline.models.precision import autocast

log = logging.getLogger("jobs.bench.models.command")
TRAINED = ("MRST-Net, units T", "CRN RIB, BN-Inception at 224", "CRN RIB, Inception v3 at 299")
PAPER_FRAMES_PER_S = 200  # CRN Table 6: RGB + RGB differences on a GTX 1080
_WARM_STEPS = 3  # until kernels are chosen, memory is allocated and graphs are recorded
_MATRIX_SIDE = 8192


def gpu_rows(
    device: torch.device,
    batch: int,
    steps: int,
    subjects: tuple[Subject, ...] = (),
    matrix_side: int = _MATRIX_SIDE,
    compiled: tuple[bool, ...] = (False, True),
) -> dict[str, Any]:
    """Measure everything on one device.

    Args:
        device: a CUDA device; the CPU works too, for tests.
        batch: clips per step; halved until they fit the memory.
        steps: timed steps per measurement.
        subjects: networks; by default the papers' largest.
        matrix_side: side of the square matrices.
        compiled: without and with ``torch.compile``.

    Returns:
        matrix_tflops (measured rate of bf16 matrix products of ``matrix_side``), training (rows), inference (rows). A
        failed measurement has its reason under "error" and no figures.
    """
    chosen = subjects or tuple(s for s in SUBJECTS if s.name in TRAINED)
    rate = matrix_rate(device, steps, matrix_side)
    training = [_guarded(_train, s, device, batch, steps, c, rate) for s in chosen for c in compiled]
    pairs = [
        dataclasses.replace(s, model=dataclasses.replace(s.model, modalities=("rgb", "diff")))
        for s in chosen
        if isinstance(s.model, CRNConfig)
    ]
    inference = [
        _guarded(_infer, s, device, size, steps, c, rate)
        for s in pairs
        for size in dict.fromkeys((1, batch))
        for c in compiled
    ]
    return {
        "matrix_tflops": rate / 1e12,
        "matrix_side": matrix_side,
        "paper_frames_per_s": PAPER_FRAMES_PER_S,
        "training": training,
        "inference": inference,
    }


def matrix_rate(device: torch.device, repeats: int, side: int = _MATRIX_SIDE) -> float:
    """FLOP/s of square bf16 matrix products, the reference for the networks' rates."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _seconds(lambda: a @ b, repeats, device)
    return 2 * side**3 / seconds


def _train(
    subject: Subject, device: torch.device, batch: int, steps: int, compiled: bool, rate: float
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = subject.build(literal=False, device=str(device))
    inputs = subject.inputs(model, batch, str(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    if compiled:
        model.compile_training()
    draws = torch.Generator().manual_seed(0)
    labels = torch.zeros(batch * len(model.draw_steps(draws)), dtype=torch.long, device=device)

    def step() -> None:
        with autocast("bf16", device):
            scores = model(inputs, steps=model.draw_steps(draws))
        loss = torch.stack(
            [torch.nn.functional.cross_entropy(s.flatten(0, 1).float(), labels) for s in scores.values()]
        ).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    seconds = _seconds(step, steps, device)
    flop = batch * flop_of_step(subject)
    return {
        "clips_per_s": batch / seconds,
        "ms_per_step": 1000 * seconds,
        "tflops": flop / seconds / 1e12,
        "share_of_matrix_rate": flop / seconds / rate,
        **_peak(device),
    }


def _infer(
    subject: Subject, device: torch.device, batch: int, steps: int, compiled: bool, rate: float
) -> dict[str, Any]:
    del rate
    torch.manual_seed(0)
    model = subject.build(literal=False, device=str(device)).eval()
    inputs = subject.inputs(model, batch, str(device))
    run: Any = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.inference_mode(), autocast("bf16", device):
            scores = run(inputs)
            fuse({name: score[:, -1].float().softmax(-1) for name, score in scores.items()})

    seconds = _seconds(step, steps, device)
    frames = batch * model.num_steps / seconds
    return {
        "frames_per_s": frames,
        "ms_per_batch": 1000 * seconds,
        "times_the_paper": frames / PAPER_FRAMES_PER_S,
        **_peak(device),
    }


def flop_of_step(subject: Subject) -> int:
    """FLOP of a forward and backward pass of one clip, 2 per multiply-add, by torch's counter on meta tensors."""
    model = subject.build(literal=False)
    inputs = subject.inputs(model, 1)
    with FlopCounterMode(display=False) as counter:
        step_loss(model, inputs).backward()
    return counter.get_total_flops()


def _guarded(
    measure: Callable[..., dict[str, Any]],
    subject: Subject,
    device: torch.device,
    batch: int,
    steps: int,
    compiled: bool,
    rate: float,
) -> dict[str, Any]:
    """The row of one measurement. The batch is halved while memory runs out; any other error is reported in the row."""
    while True:
        row: dict[str, Any] = {"name": subject.name, "batch": batch, "compiled": compiled, "error": None}
        try:
            torch.compiler.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            return row | measure(subject, device, batch, steps, compiled, rate)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                return row | {"error": f"out of memory with one clip: {_first_line(error)}"}
            log.warning("%s: %d clips do not fit, trying %d", subject.name, batch, batch // 2)
        except Exception as error:  # compilers fail in many ways; the other rows are still measured
            log.warning("%s, compiled %s: %s", subject.name, compiled, _first_line(error))
            return row | {"error": f"{type(error).__name__}: {_first_line(error)}"}
        batch //= 2


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _peak(device: torch.device) -> dict[str, float]:
    return {"peak_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Mean time of a call in seconds: median of three measurements."""
    for _ in range(_WARM_STEPS):
        work()
    means = []
    for _ in range(3):
        _wait(device)
        start_s = time.perf_counter()
        for _ in range(repeats):
            work()
        _wait(device)
        means.append((time.perf_counter() - start_s) / repeats)
    return statistics.median(means)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
