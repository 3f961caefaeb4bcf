"""Time the TV-L1 engines on real frames, and compare their flow with OpenCV's.

    python -m jobs.bench tvl1 --videos DIR --json tvl1.json
    python -m jobs.bench tvl1 --videos DIR --json tvl1.json --engines opencv numba --size 224x224 --pairs 48
    python -m jobs.bench tvl1 --videos DIR --json tvl1.json --fps 10 --fastest
    python -m jobs.bench tvl1 --videos DIR --json tvl1.json --translations 2 4 8 12

Pairs of neighbouring frames are spread over the clips below DIR and over their time; --fps, --fastest and
--translations choose pairs with larger motion, which is harder. Every engine runs on one thread,
engine after engine on every pair, so that other load on the machine hits all alike; a pair's time is the least of
--repeat, in seconds on a core.
On a GPU torch runs all pairs as one batch that is on the device, and its share of the roofline is printed: 64 bytes a
pixel and iteration (state read and written once, the data term read) at the device's measured copy bandwidth.

Writes   --json: hardware, versions, commit, pairs, and per engine s_per_pair, speedup_vs_opencv, mean_epe, within_0p1,
         over_1px, worst_pair_epe (EPE in pixels against OpenCV with default parameters; shares of pixels), and
         error_to_truth of --translations.
Exit     0 every engine is as near to OpenCV as its mode must be; 1 one is not; 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table

from jobs.bench.machine import hardware, versions
from jobs.bench.tvl1_gpu import speed_on_gpu
from pipeline.common.cli import console, errors, parse
from pipeline.config.base import require
from pipeline.config.version import code_version
from preprocessing.flow.base import FlowEngine
from preprocessing.flow.compare import Agreement, Exactness, exactness, on_gpu, time_engines
from preprocessing.flow.factory import flow_engine
from preprocessing.flow.pairs import Pairs, pick_pairs, translated_pairs

log = logging.getLogger("jobs.bench")

ENGINES = ("opencv", "numba", "numba-fast", "torch", "torch-fast")
_EXACTNESS_PAIRS = 3
_MORE_THAN_OPENCV_PX = 0.02  # that an engine may be farther from a known flow


@dataclasses.dataclass(frozen=True, kw_only=True)
class TVL1Args:
    """Time the TV-L1 engines."""

    videos: Path
    """Folder with at least 3 videos; folders in it are searched too."""
    json: Path
    """File for the result."""
    pairs: int = 24
    """Pairs of frames."""
    size: str = "340x256"
    """WIDTHxHEIGHT of the frames in pixels."""
    engines: tuple[str, ...] = ()
    """opencv, numba, numba-fast, torch, torch-fast; by default all that are of use here (torch: where there is a
    GPU). OpenCV always runs: it is the reference.
    """
    fps: float = 0.0
    """Frames a second that are taken of the videos; 0: all. Fewer frames make larger motion."""
    fastest: bool = False
    """Take the pairs of every video that move most. A cut counts as motion, so use videos of one shot each."""
    translations: tuple[float, ...] = ()
    """Lengths in pixels. Instead of neighbouring frames, two windows on one frame, moved by that much: a known flow,
    from which an engine must not be farther than OpenCV is, but for 0.02 px.
    """
    repeat: int = 2
    """Times every pair is computed; the least time counts."""

    def __post_init__(self) -> None:
        require(self.pairs >= 3, "pairs", self.pairs, "give at least 3, one of each of 3 clips")
        require(self.repeat >= 1, "repeat", self.repeat, "give at least 1")
        width, height = self.size_px()
        require(0 <= self.fps < float("inf"), "fps", self.fps, "give frames a second, or 0 for all")
        for length in self.translations:
            require(
                1 <= length <= min(width, height) / 2,
                "translations",
                length,
                f"give pixels, from 1 to half of the smaller side ({min(width, height) // 2})",
            )
        require(
            not self.translations or not (self.fps or self.fastest),
            "translations",
            " ".join(map(str, self.translations)),
            "known translations are of one frame: leave out --fps and --fastest",
        )
        for name in self.engines:
            require(name in ENGINES, "engines", name, f"use {', '.join(ENGINES)}")
        require(self.json.parent.is_dir(), "json", str(self.json), "its folder does not exist; make it first")
        require(not self.json.is_dir(), "json", str(self.json), "is a folder; give a file in it")

    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size)
        sides = tuple(map(int, match.groups())) if match else (0, 0)
        require(
            min(sides) >= 16,
            "size",
            self.size,
            "give WIDTHxHEIGHT with sides of at least 16 pixels, for example 340x256",
        )
        return sides[0], sides[1]


def run(arguments: Sequence[str]) -> int:
    """The subcommand: parse, measure, print, write; returns the exit code."""
    args = parse(TVL1Args, args=arguments, prog="python -m jobs.bench tvl1", description=__doc__)
    engines = {name: _engine(name) for name in dict.fromkeys(("opencv", *(args.engines or _useful_here())))}
    if args.translations:
        pairs = translated_pairs(args.videos, args.pairs, args.size_px(), args.translations)
    else:
        pairs = pick_pairs(args.videos, args.pairs, args.size_px(), fps=args.fps, fastest=args.fastest)
    cv2.setNumThreads(1)
    exact = {
        name: exactness(type(e), pairs.gray_N2HW[:_EXACTNESS_PAIRS])
        for name, e in engines.items()
        if name != "opencv" and e.mode == "tvl1"
    }
    result = _measure(args, engines, pairs)
    result["exactness"] = {name: {**dataclasses.asdict(e), "holds": e.holds} for name, e in exact.items()}
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    _print(result, exact)
    console.print(f"result   {args.json}", markup=False)
    missed = [name for name, entry in result["engines"].items() if not entry["holds"]] + [
        name for name, e in exact.items() if not e.holds
    ]
    if missed:
        errors.print(f"not as near to OpenCV as it must be: {', '.join(dict.fromkeys(missed))}", style="bold red")
    return 1 if missed else 0


def _useful_here() -> tuple[str, ...]:
    return ENGINES if torch.cuda.is_available() else ENGINES[:3]


def _engine(name: str) -> FlowEngine:
    library, _, fast = name.partition("-")
    return flow_engine(library, "tvl1-fast" if fast else "tvl1")


def _measure(args: TVL1Args, engines: dict[str, FlowEngine], pairs: Pairs) -> dict[str, Any]:
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("pairs", total=args.pairs)
        timed = time_engines(pairs, engines, args.repeat, lambda done: bar.update(task, completed=done))
    reference = timed["opencv"]
    iterations = next((t.iterations for t in timed.values() if t.iterations), None)
    known = pairs.truth_N2 is not None
    errors_px = {name: pairs.error_to_truth(t.flow_N2HW) for name, t in timed.items()} if known else {}
    entries = {}
    for name, t in timed.items():
        agreement = Agreement.of(t.flow_N2HW, reference.flow_N2HW)
        entries[name] = {
            "s_per_pair": float(t.seconds.mean()),
            "s_median_pair": float(np.median(t.seconds)),
            "s_slowest_pair": float(t.seconds.max()),
            "wall_s_per_pair": float(t.wall_seconds.mean()),
            "speedup_vs_opencv": float(reference.seconds.sum() / t.seconds.sum()),
            **dataclasses.asdict(agreement),
            "error_to_truth": errors_px.get(name),
            "holds": agreement.meets(fast=engines[name].mode == "tvl1-fast")
            and (not known or errors_px[name] <= errors_px["opencv"] + _MORE_THAN_OPENCV_PX),
            "iterations": t.iterations,
            **engines[name].describe(),
        }
        if on_gpu(engines[name]):
            entries[name] |= speed_on_gpu(engines[name], pairs, iterations)
    return {
        "hardware": hardware() | {"threads_per_engine": 1},
        "versions": versions("numpy", "numba", "torch", "triton") | {"opencv": cv2.__version__},
        "commit": code_version(),
        "size": args.size,
        "motion": {"fps": args.fps, "fastest": args.fastest, "translations": args.translations},
        "pairs": len(pairs.gray_N2HW),
        "clips": list(dict.fromkeys(pairs.clips)),
        "repeat": args.repeat,
        "engines": entries,
        "time_of_a_pair": (
            "seconds on a core (on a GPU: on the wall), the least of the repetitions; s_per_pair is the mean over pairs"
        ),
    }


def _print(result: dict[str, Any], exact: dict[str, Exactness]) -> None:
    console.print(
        f"{result['hardware']['cpu']}, one thread; {result['pairs']} pairs of {len(result['clips'])} clips at"
        f" {result['size']}",
        markup=False,
    )
    for name, e in exact.items():
        word = "holds" if e.holds else "DOES NOT HOLD"
        console.print(
            f"{name}: 10 iterations, 1 warp: 1 scale max |d| {e.max_1_scale:.1e} px (bar 1e-5); 5 scales mean"
            f" {e.mean_5_scales:.1e} px (bar 1e-4): {word}",
            markup=False,
        )
    table = Table(
        "engine",
        "ms/pair",
        "speed-up",
        "EPE px",
        "<=.1px",
        ">1px",
        "worst",
        "to truth",
        "iter.",
        "bar",
        title="against OpenCV's defaults",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in table.columns:
        column.no_wrap, column.justify = True, "right" if column is not table.columns[0] else "left"
    for name, e in result["engines"].items():
        table.add_row(
            name,
            f"{1000 * e['s_per_pair']:.1f}",
            f"{e['speedup_vs_opencv']:.1f}",
            f"{e['mean_epe']:.4f}",
            f"{e['within_0p1']:.1%}",
            f"{e['over_1px']:.2%}",
            f"{e['worst_pair_epe']:.3f}",
            "-" if e["error_to_truth"] is None else f"{e['error_to_truth']:.3f}",
            f"{e['iterations']:.0f}" if e["iterations"] else "-",
            "holds" if e["holds"] else "MISSED",
        )
    console.print(table)
    for name, e in result["engines"].items():
        if "pairs_per_s" in e:
            roof = (
                f", {e['share_of_roofline']:.0%} of the roofline of {e['roofline_pairs_per_s']:.0f}"
                if "share_of_roofline" in e
                else ""
            )
            console.print(
                f"{name}: {e['pairs_per_s']:.0f} pairs/s on {result['hardware']['gpu']} in batches of"
                f" {e['batch_pairs']}{roof}",
                markup=False,
            )
