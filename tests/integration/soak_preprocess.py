"""Kill parts of preprocessing at random moments, run the command again, and compare the data set with an undisturbed
one.

    python tests/integration/soak_preprocess.py --kills 20 --seed 0 [--targets worker driver node s3]

Reads    nothing. Makes its clips and starts a stack of its own, in a temporary folder.
Prints   one line per kill: what, when, whether the run finished without help, re-runs, and whether the data set is
         byte-identical.
Exit     0 all identical. 1 at least one was not; the outputs of its runs are printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, not as a module of the project

from tests.support.preprocess_bench import TARGETS, disturb, started_bench


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    chance, bad, killed, through = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, started_bench(Path(folder)) as bench:
        print(
            f"undisturbed: {bench.num_inputs} videos, {len(bench.expected)} objects, {bench.undisturbed_s:.1f} s",
            flush=True,
        )
        for number in range(options.kills):
            # In turn, so that every target gets its share; the moments are random.
            outcome = disturb(bench, options.targets[number % len(options.targets)], chance)
            print(f"{number + 1:3} {outcome}", flush=True)
            killed, through = killed + outcome.killed, through + outcome.came_through
            if outcome.faults:
                bad += 1
                print(outcome.output, flush=True)
    print(
        f"{killed} kills, {through} runs finished without help, {options.kills - bad} of {options.kills} data sets"
        " identical after the re-run"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
