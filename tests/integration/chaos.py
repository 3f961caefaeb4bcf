"""Everything that can go wrong with a training goes wrong in one run on real servers; then the run is held against an
undisturbed one.

    python -m tests.integration.chaos --minutes 8       # of the undisturbed run; by hand
    python -m tests.integration.chaos --minutes 1.5 --only node grow worker s3-killed

Reads    nothing. Makes its videos and starts a stack of its own (S3, MLflow, Ray with up to three nodes) in a temporary
         folder.
Does     an undisturbed run of four ranks; the same run again, on which the events of ``tests.support.chaos_events``
         come one after another; BatchNorm frozen.
Prints   every change of the ranks, every disturbance with the seconds it cost, the throughput including recoveries, and
         what does not hold.
Exit     0 all holds. 1 something does not; the commands' outputs are kept where it says.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pipeline.storage import open_storage
from tests.support.chaos_checks import (
    Points,
    distance_trained,
    final_weights,
    history,
    keys_faults,
    largest_difference,
    left_behind,
    seconds_lost,
)
from tests.support.chaos_events import EVENTS, Chaos
from tests.support.training_stack import TrainCommand, TrainingStack, read_events, started_stack

RANKS, LOG_STEPS, SHARE_BAR = 4, 10, 0.8
TOLERANCE = 0.01
"""Largest difference of a final weight, as a share of how far training moved the weight that it moved furthest. Two,
three and four ranks add their gradients in different orders, and training multiplies the differences of rounding, the
faster the higher the rate is, hence a low one. One rank number alone gives the same bits (tests of killed ranks).
"""
CLIPS = {"train": 72, "val": 2, "test": 2, "appearances": 2, "motions": 2, "min_frames": 10, "max_frames": 12}
MODEL = (
    "--model.width 0.5 --model.hidden 32 --model.adapted 32 --model.num-steps 4 --clip.num-frames 4 --clip.crop 56"
    " --model.dropout 0.2 --clip.resize 64 --data.batch-size 24 --data.val-split= --optim.name sgd --optim.lr 0.0001"
    " --optim.backbone-lr 0.0001 --optim.schedule constant --optim.warmup-steps 0 --run.freeze-batchnorm"
)
RUN = f"--run.log-samples --run.log-steps {LOG_STEPS} --run.checkpoint-steps 6 --run.checkpoint-epochs 100000"
STEPS = CLIPS["train"] * 4 // 24  # of an epoch


def start(bench: TrainingStack, uri: str, run_id: str, epochs: int) -> TrainCommand:
    """The command whose run is undisturbed, or disturbed, or goes on."""
    ranks = ["--run.num-workers", str(RANKS), "--run.min-workers", "2", "--optim.epochs", str(epochs)]
    return TrainCommand(bench, run_id, "rgb_demo", "--data.uri", uri, *MODEL.split(), *RUN.split(), *ranks)


def warm_up(bench: TrainingStack, uri: str) -> float:
    """Seconds of a step, by a short run; servers and files are warm afterwards."""
    command = start(bench, uri, "warm-up", 3)
    assert command.end(300) == 0, command.output
    points = history("warm-up")["train/loss"]
    (first, first_s), (last, last_s) = points[0], points[-1]
    return (last_s - first_s) / (last - first)


def main() -> int:
    """Run, check and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the undisturbed run")
    parser.add_argument("--only", nargs="+", choices=EVENTS, default=list(EVENTS))
    options = parser.parse_args()
    keep = Path(tempfile.mkdtemp(prefix="chaos-outputs-"))
    with tempfile.TemporaryDirectory(prefix="c-") as name:
        folder = Path(name).resolve()
        with started_stack(folder, ray_cpus=2) as bench:
            try:
                faults = _measure(bench, options.minutes, options.only)
            finally:
                for log in folder.glob("*.log"):
                    shutil.copy(log, keep)
    for fault in faults:
        print(f"does not hold: {fault}")
    print(f"{len(faults)} faults; the commands' outputs are in {keep}")
    return 1 if faults else 0


def _measure(bench: TrainingStack, minutes: float, only: list[str]) -> list[str]:
    uri = bench.store_set(**CLIPS)
    first_node = bench.add_node(cpus=2)
    step_s = warm_up(bench, uri)
    epochs = max(2 * len(only) + 4, round(60 * minutes / step_s / STEPS))  # events must not fall on one another
    print(f"{epochs} epochs of {STEPS} steps, {step_s:.2f} s each", flush=True)
    started_s = time.monotonic()
    command = start(bench, uri, "undisturbed", epochs)
    assert command.end(60 * minutes * 4 + 120) == 0, command.output
    undisturbed_s = time.monotonic() - started_s
    print(f"undisturbed: {undisturbed_s:.0f} s", flush=True)

    chaos = Chaos(bench, first_node, lambda: start(bench, uri, "disturbed", epochs), epochs * STEPS)
    started_s = time.monotonic()
    code = chaos.run([name for name in EVENTS if name in only])
    disturbed_s = time.monotonic() - started_s
    run = open_storage(f"s3://{bench.stack.bucket}/runs/disturbed")
    faults = [] if code == 0 else [f"the last command ended with {code}"]
    print("\nchanges of the ranks (events.jsonl)")
    for event in read_events(run):
        print(
            f"  {event['time']}  {event['ranks_before']} -> {event['ranks']} at step {event['step']},"
            f" {event['steps_lost']} steps and {event['seconds_lost']:.0f} s lost: {event['why']}"
        )
    points = history("disturbed")
    print("disturbances, with the seconds they cost by the times of the curve's points")
    done = chaos.done
    for entry, lost_s in zip(done, seconds_lost(points["train/loss"], [d.at_s for d in done]), strict=True):
        print(f"  step {entry.step:4}  {lost_s:6.1f} s  {entry.name}: {entry.what}")
    share = undisturbed_s / disturbed_s
    print(f"throughput with all recoveries: {share:.2f} of undisturbed ({undisturbed_s:.0f} s, {disturbed_s:.0f} s)")
    if share < SHARE_BAR:
        faults.append(f"throughput {share:.2f} of undisturbed is below {SHARE_BAR}")
    undisturbed = open_storage(f"s3://{bench.stack.bucket}/runs/undisturbed")
    worst, moved = largest_difference(final_weights(run), final_weights(undisturbed)), distance_trained(undisturbed)
    print(f"largest difference of a final weight: {worst:.2g}; training moved one by {moved:.2g}")
    if not worst <= TOLERANCE * moved:
        faults.append(f"a weight differs by {worst:.3g}, {worst / moved:.2%} of the way ({TOLERANCE:.0%} is allowed)")
    faults += chaos.faults + keys_faults(uri, run, epochs)
    faults += Points("disturbed").faults(epochs, STEPS, LOG_STEPS, like=history("undisturbed"))
    return faults + left_behind(bench, run)


if __name__ == "__main__":
    sys.exit(main())
