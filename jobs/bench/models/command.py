"""Count parameters and FLOP of the papers' networks, and compare the fast path with the literal equations in time,
memory and values.

    python -m jobs.bench models --json models.json                    # full size: minutes on a CPU
    python -m jobs.bench models --json models.json --scale 0.5        # fewer frames and pixels
    python -m jobs.bench models --json models.json --only MRST-Net --skip gpu

counts     parameters, and GFLOP of one clip's forward pass by torch's counter on meta tensors (2 FLOP per multiply-add;
           only products: BN, ReLU and sums are not counted), next to the printed numbers; "why" explains a difference.
           Always at full size.
time       forward + backward of one clip in fp32 on the CPU, both paths interleaved with the same weights and inputs:
           median over the rounds, and the largest difference of the scores. The bound is the speed-up that the saved
           products alone would give: FLOP of the literal path divided by FLOP of the fast one.
memory     peak resident memory (the kernel's VmHWM) of a new process per path and round that does one forward and
           backward pass, including Python, torch and the weights: median over the rounds
gpu        on a GPU: clips/s of training steps in bf16, compiled and eager, as a share of the rate of large matrix
           products measured in the same run, and frames/s of inference with RGB + RGB difference

Writes   --json: hardware, versions, commit, scale, rows (name, params, paper_params, gflop, paper_gflop, literal_ms,
         fast_ms, speedup, max_abs_diff, literal_peak_mb, fast_peak_mb and more; null: not measured, or no such path),
         gpu, missed.
Exit     0 all requirements are met: at full size a speed-up of 1.2 (MRST-P), 1.1 with a lower peak (MRST-T) and 1.15
         (recurrent part of CRN), and a relative difference of the paths of at most 1e-4 (gradients: or 1e-8 in
         float64); 1 one of them is missed; 2 refused before any work. At reduced sizes only the difference of the
         scores counts.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress

from jobs.bench.machine import finish, hardware, versions
from jobs.bench.models.networks import Subject, count
from jobs.bench.models.show import show
from jobs.bench.models.subjects import find_subjects
from jobs.bench.models.timing import TOLERANCE, compare, peak_memory_mb
from pipeline.common.cli import errors, parse
from pipeline.config.base import as_dict, require
from pipeline.config.version import code_version
from pipeline.data.decoding.factory import rank_cores

_FLOAT64_TOLERANCE = 1e-8
"""A ReLU or max-pool whose input is within rounding error of its kink sends its gradient another way. After many of
them the float32 gradients of any two orders of summation differ by several per cent, even those of one network on one
thread and on two. Float64 shows whether the sums are the same.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """Count, time and compare the papers' networks."""

    json: Path
    """File for the result."""
    only: tuple[str, ...] = ()
    """Rows whose name contains one of these; none: all."""
    scale: float = 1.0
    """Fraction of the frames and of the side of the timed clip (at least 8 frames, 96 pixels); 1: the papers' size."""
    rounds: int = 5
    """Timed passes of each path."""
    threads: int = 0
    """0: the cores this process may use."""
    time_all: bool = False
    """Time every row instead of only those with a requirement."""
    skip: tuple[Literal["time", "memory", "gpu"], ...] = ()
    """What is not measured."""
    batch_size: int = 16
    """Clips per step on a GPU; halved until they fit."""
    steps: int = 10
    """Steps per measurement on a GPU."""

    def __post_init__(self) -> None:
        require(0 < self.scale <= 1, "scale", self.scale, "must be in (0, 1]")
        for name in ("rounds", "batch_size", "steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.threads >= 0, "threads", self.threads, "must be 0 (all cores) or more")
        require(self.json.parent.is_dir(), "json", str(self.json), "its folder does not exist; create it first")
        require(not self.json.is_dir(), "json", str(self.json), "is a folder; give a file in it")


def run(arguments: Sequence[str]) -> int:
    """The subcommand: parse, measure, print, write; returns the exit code."""
    args = parse(ModelsArgs, args=arguments, prog="python -m jobs.bench models", description=__doc__)
    subjects = find_subjects(args.only)
    threads = args.threads or rank_cores()
    torch.set_num_threads(threads)
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions("torch", "triton"),
        "commit": code_version(),
        "threads": threads,
        "scale": args.scale,
        "flop_per_multiply_add": 2,
        "peak": "VmHWM of a new process, MB of 1e6 bytes",
    }
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("models", total=len(subjects))
        rows = []
        for subject in subjects:
            bar.update(task, description=subject.name)
            rows.append(measure(subject, args, threads))
            bar.advance(task)
    result["rows"] = rows
    if "gpu" not in args.skip and torch.cuda.is_available():
        from jobs.bench.models.gpu import gpu_rows

        result["gpu"] = gpu_rows(torch.device("cuda", 0), args.batch_size, args.steps)
    result["missed"] = [
        line for subject, row in zip(subjects, rows, strict=True) for line in missed(subject, row, args.scale)
    ]
    return finish(result, args.json, show)


def measure(subject: Subject, args: ModelsArgs, threads: int) -> dict[str, Any]:
    """One row: counts at full size, times and peaks at ``args.scale``."""
    params, fast_gflop = count(subject, literal=False)
    gflop = count(subject, literal=True)[1] if subject.has_literal() else fast_gflop
    row: dict[str, Any] = {
        "name": subject.name,
        "params": params,
        "paper_params": subject.paper_params,
        "weights_mb": 4 * params / 1e6,
        "gflop": gflop,
        "paper_gflop": subject.paper_gflop,
        "fast_gflop": fast_gflop,
        "bound": gflop / fast_gflop,
        "literal_ms": None,
        "fast_ms": None,
        "speedup": None,
        "max_abs_diff": None,
        "literal_peak_mb": None,
        "fast_peak_mb": None,
        "why": subject.why,
        "config": as_dict(subject.model),
    }
    if not (subject.timed or args.time_all):
        return row
    small = subject.scaled(args.scale)
    row |= {"num_steps": small.model.num_steps, "crop": small.crop}
    if "time" not in args.skip:
        taken = compare(small, args.rounds)
        row |= dataclasses.asdict(taken) | {"speedup": taken.speedup}
    if "memory" not in args.skip:
        for name, literal in (("fast", False), ("literal", True)):
            peaks = (
                [peak_memory_mb(small, literal, threads) for _ in range(args.rounds)]
                if not literal or small.has_literal()
                else [None]
            )
            whole = [peak for peak in peaks if peak is not None]
            row[f"{name}_peak_mb"], row[f"{name}_before_mb"] = (
                (statistics.median(column) for column in zip(*whole, strict=True))
                if len(whole) == len(peaks)
                else (None, None)
            )
    return row


def missed(subject: Subject, row: dict[str, Any], scale: float) -> list[str]:
    """The requirements that a row misses, one line each; those that were not measured do not count."""
    # Gradients at reduced sizes do not count: with batch normalisation over a handful of values, fp32 itself is that
    # inaccurate on either path.
    lines = []
    if (row.get("relative_diff") or 0) > TOLERANCE:
        lines.append(f"{row['name']}: scores differ by {row['relative_diff']:.2g}, more than {TOLERANCE:g}")
    if scale < 1:
        return lines
    if (row.get("gradient_relative_diff") or 0) > TOLERANCE and row[
        "float64_gradient_relative_diff"
    ] > _FLOAT64_TOLERANCE:
        lines.append(
            f"{row['name']}: gradients differ by {row['gradient_relative_diff']:.2g}, in float64 by"
            f" {row['float64_gradient_relative_diff']:.2g}"
        )
    required = subject.min_speedup
    if required is not None and row["speedup"] is not None and row["speedup"] < required:
        lines.append(f"{row['name']}: speed-up {row['speedup']:.3f} is below {required}")
    if (
        subject.less_memory
        and row["fast_peak_mb"]
        and row["literal_peak_mb"]
        and row["fast_peak_mb"] >= row["literal_peak_mb"]
    ):
        lines.append(
            f"{row['name']}: peak {row['fast_peak_mb']:.0f} MB is not below the literal path's"
            f" {row['literal_peak_mb']:.0f}"
        )
    return lines
