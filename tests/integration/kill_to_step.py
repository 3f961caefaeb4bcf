"""How long a training stands still when a worker is killed: ten kills, in parts.

    python -m tests.integration.kill_to_step --kills 10          # about six minutes; by hand

A stack of its own (S3, MLflow, Ray with one node), one training. Each time its ranks have been stepping for a few
seconds, one gets SIGKILL. Prints one line a kill, and the medians: how long until the driver
noticed and until the old ranks were gone; then, from there, the parts that the log gives of the time to a first step.

Exit     0 the median of the whole is at most 20 s. 1 it is longer.
"""

from __future__ import annotations

import argparse
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.support.training_stack import TrainCommand, TrainingStack, started_stack

SMALL = (
    "--model.width 0.25 --model.hidden 16 --model.adapted 16 --model.num-steps 4 --clip.num-frames 4 --clip.crop 56"
    " --clip.resize 64 --data.batch-size 16 --data.val-split= --run.log-steps 5 --run.freeze-batchnorm"
    " --run.checkpoint-steps 10 --run.checkpoint-epochs 1000 --optim.epochs 1000 --run.max-failures 3"
)
BAR_S = 20.0
_FIRST = re.compile(r"the first step was done after ([0-9.]+) s \((.*?)\)")


def kill_once(bench: TrainingStack, command: TrainCommand, number: int) -> dict[str, float]:
    """Seconds of every part, from the kill to the end of the new group's first step."""
    command.until(lambda: len(_FIRST.findall(command.output)) == number, 120)
    at_line = command.output.rfind("the first step was done")
    command.until(lambda: "clips/s" in command.output[at_line:], 120)
    time.sleep(5.0)
    old = bench.workers()
    start_s, at = time.monotonic(), {}
    old[-1].send_signal(signal.SIGKILL)

    def look() -> bool:
        now_s = time.monotonic() - start_s
        text = command.output
        if "noticed" not in at and text.count("; going on from step") == number:
            at["noticed"] = now_s
        if "gone" not in at and not any(one.is_running() and one.status() != "zombie" for one in old):
            at["gone"] = now_s
        return len(_FIRST.findall(text)) == number + 1

    command.until(look, 180)
    whole_s = time.monotonic() - start_s
    parts = dict(part.rsplit(" ", 1) for part in _FIRST.findall(command.output)[-1][1].split(", "))
    found = {"noticed": at["noticed"], "old ranks gone": at.get("gone", 0.0)}
    found |= {name: float(seconds) for name, seconds in parts.items()}
    return {**found, "between": whole_s - at["noticed"] - sum(map(float, parts.values())), "whole": whole_s}


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="k-") as folder, started_stack(Path(folder).resolve(), args.ranks) as bench:
        uri = bench.store_set(train=40, val=2, test=2, appearances=2, motions=2, min_frames=10, max_frames=12)
        ranks = ["--run.num-workers", str(args.ranks)]
        command = TrainCommand(bench, "kills", "rgb_demo", "--data.uri", uri, *ranks, *SMALL.split())
        try:
            for number in range(1, args.kills + 1):
                rows.append(kill_once(bench, command, number))
                print(_line(rows[-1]), flush=True)
        finally:
            command.process.send_signal(signal.SIGINT)
            code = command.end(120)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"{args.ranks} ranks, medians of {len(rows)} kills, seconds; the command ended with {code}:\n{_line(medians)}"
    )
    return 0 if medians["whole"] <= BAR_S and code == 130 else 1


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in row.items())


if __name__ == "__main__":
    sys.exit(main())
