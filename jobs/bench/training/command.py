"""What Ray Train, loader, tracker and meters add to a step, and two ranks against one.

    python -m jobs.bench training --data file:///FOLDER --json training.json
    python -m jobs.bench training --data ... --json training.json -- crn_demo --data.batch-size 8   # as of jobs.train

run        a run of jobs.train's on one rank with one thread: its driver's parts, its worker, all that it measures,
           its page on the tracking server where one is known
bare       the same model, batches and updates in a process of its own: batches decoded beforehand, no Ray, no loader,
           no tracker, no meter. Both end with the same weights, bit by bit, which is checked.
ranks      runs of one rank with two threads and of two ranks with one, in turns: clips a second of their last epoch
metering   stage times, meter, curve points, Ray's metrics and the watchdog around steps that do nothing

The run and the bare loop take turns, an epoch of --steps steps each. ``overhead`` is the median over the rounds of the
run's time over the bare loop's, less 1: with the waiting for batches, without checkpoints. Everything is on the CPU.

Writes   --json: hardware, versions, commit, digest, settings, overhead, rounds (seconds of the run, of these waiting
         for batches, and of the bare loop), same_weights, metering_us, metering_share, ranks, missed.
Exit     0 overhead at most 0.05 and the same weights; 1 one of them does not hold; 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.bench.machine import finish, hardware, versions
from jobs.bench.training.metering import metering_cost_s
from jobs.bench.training.turns import clips_per_s, take_turns
from jobs.cluster.connect import connect
from jobs.train.command import parse_config
from jobs.train.prepare import prepare
from pipeline.common.cli import console, parse
from pipeline.config.base import as_dict, require
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version

OVERHEAD_BAR = 0.05
DEFAULT = "rgb_demo --model.width 0.5 --clip.crop 112 --clip.resize 128 --data.batch-size 8"
"""A step of which decoding is a small part, as with the papers' networks."""
_WARM = 1  # rounds that do not count: memory, connections, caches


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingArgs:
    """Time a run against a bare loop."""

    data: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER, as jobs.preprocess wrote it."""
    json: Path
    """File for the result."""
    steps: int = 20
    """Of a turn; at most those of the data set's epoch."""
    rounds: int = 10
    """Turns of each that count."""
    pairs: int = 3
    """Runs of one rank, and of two; 0: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.pairs >= 0, "pairs", self.pairs, "must be 0 or more")
        require(self.json.parent.is_dir(), "json", str(self.json), "its folder does not exist; make it first")


def _config(base: TrainConfig, folder: Path, name: str, *, epochs: int, ranks: int = 1, cpus: int = 1) -> TrainConfig:
    """A run below ``folder``, without validation and with its only checkpoint at the end."""
    changes: dict[str, dict[str, Any]] = {
        "data": {"val_split": "", "val_share": 0.0, "val_sources": (), "device": "cpu"},
        "optim": {"epochs": epochs, "decay_epochs": ()},
        "stop": {"patience": 0},
        "run": {
            "run_id": name,
            "output": f"file://{folder}",
            "experiment": "bench",
            "num_workers": ranks,
            "min_workers": 0,
            "cpus_per_worker": float(cpus),
            "use_gpu": "no",
            "checkpoint_epochs": epochs,
            "checkpoint_steps": 0,
            "keep_best": "",
        },
    }
    parts = {part: dataclasses.replace(getattr(base, part), **fields) for part, fields in changes.items()}
    return dataclasses.replace(base, **parts)


def run(arguments: Sequence[str]) -> int:
    """The subcommand: parse, measure, print, write; returns the exit code."""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    own, rest = words[:at], words[at + 1 :] or DEFAULT.split()
    args = parse(TrainingArgs, args=own, prog="python -m jobs.bench training", description=__doc__)
    base = parse_config([*rest, "--data.uri", args.data])
    with tempfile.TemporaryDirectory(prefix="reciprocal-bench-") as folder:
        result = _measure(args, base, Path(folder).resolve())
    return finish(result, args.json, show)


def _measure(args: TrainingArgs, base: TrainConfig, folder: Path) -> dict[str, Any]:
    epochs = args.rounds + _WARM + 1  # the last one's end is the run's, with a checkpoint
    prepared = prepare(_config(base, folder, "paced", epochs=epochs))
    config = prepared.config
    whole = prepared.plan.samples[config.data.train_split] // config.data.batch_size
    require(whole >= 1, "batch_size", config.data.batch_size, "the training split has fewer clips: use fewer")
    steps = min(args.steps, whole)
    connect()
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions("torch", "ray", "mlflow-skinny", "numpy"),
        "commit": code_version(),
        "data": args.data,
        "digest": prepared.manifest.digest,
        "config": as_dict(base),
        "steps": steps,
    }
    turns = take_turns(prepared, folder, steps)
    rounds = turns.rounds[_WARM : _WARM + args.rounds]
    bare_s = statistics.median(r["bare_s"] for r in rounds)
    metering_s = metering_cost_s(config.run.log_steps)
    result |= {
        "rounds": rounds,
        "step_ms": 1000 * bare_s / steps,
        "overhead": statistics.median(r["run_s"] / r["bare_s"] for r in rounds) - 1,
        "waiting": statistics.median(r["waited_s"] / r["bare_s"] for r in rounds),
        "same_weights": turns.same_weights,
        "metering_us": 1e6 * metering_s,
        "metering_share": metering_s * steps / bare_s,
        "ranks": _ranks(args.pairs, base, folder, steps),
    }
    return result | {"missed": missed(result)}


def _ranks(count: int, base: TrainConfig, folder: Path, steps: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"1": [], "2": []}
    for number in range(count):
        for ranks, cpus in ((1, 2), (2, 1)):
            config = _config(base, folder, f"ranks-{ranks}-{number}", epochs=3, ranks=ranks, cpus=cpus)
            rates[str(ranks)].append(clips_per_s(prepare(config), steps))
    pairs = list(zip(rates["1"], rates["2"], strict=True))
    return {"clips_per_s": rates, "ratio": statistics.median(two / one for one, two in pairs) if pairs else None}


def missed(result: dict[str, Any]) -> list[str]:
    """What of a result does not hold, one line each."""
    lines = [] if result["same_weights"] else ["the run and the bare loop end with different weights"]
    if result["overhead"] > OVERHEAD_BAR:
        lines.append(f"overhead {result['overhead']:.3f} is above {OVERHEAD_BAR}")
    return lines


def show(result: dict[str, Any]) -> None:
    """Print a result."""
    console.print(
        f"{result['config']['recipe']}, batches of {result['config']['data']['batch_size']}, {result['steps']} steps a"
        f" turn; {result['hardware']['cpu']}",
        markup=False,
    )
    table = Table("round", "run s", "waiting s", "bare s", "run / bare", box=None, padding=(0, 2, 0, 0))
    for number, taken in enumerate(result["rounds"], 1):
        seconds = (f"{taken[name]:.2f}" for name in ("run_s", "waited_s", "bare_s"))
        table.add_row(str(number), *seconds, f"{taken['run_s'] / taken['bare_s']:.3f}")
    console.print(table)
    console.print(
        f"overhead {result['overhead']:.1%} of a bare step of {result['step_ms']:.0f} ms, of which waiting for batches"
        f" {result['waiting']:.1%}; metering {result['metering_us']:.0f} us a step, {result['metering_share']:.2%};"
        f" weights {'equal bit by bit' if result['same_weights'] else 'differ'}",
        markup=False,
    )
    if ratio := result["ranks"]["ratio"]:
        shown = {ranks: ", ".join(f"{x:.1f}" for x in rates) for ranks, rates in result["ranks"]["clips_per_s"].items()}
        console.print(
            f"clips/s of 1 rank with 2 threads: {shown['1']}; of 2 ranks with 1: {shown['2']}; two against one"
            f" {ratio:.2f}",
            markup=False,
        )
