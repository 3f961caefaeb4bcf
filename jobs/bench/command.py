"""Measure a part of the system against its alternatives, all in one run.

    python -m jobs.bench tvl1 --videos DIR --json bench.json      # optical flow: engines against OpenCV
    python -m jobs.bench preprocess --format ucf101 --source DIR  # the whole job against flow alone
    python -m jobs.bench loader --data URI --json bench.json      # our loader, its decoder alone, and a baseline
    python -m jobs.bench models --json bench.json                 # the papers' networks: counts, speed, the equations
    python -m jobs.bench training --data URI --json bench.json    # a run's steps against a bare loop; 2 ranks against 1

    python -m jobs.bench gpu --minutes 8 --json gpu.json          # everything that only a GPU can tell

    python -m jobs.bench tvl1 --help                              # what it measures, and its options

Exit     0 measured, all requirements met; 1 measured, a requirement was missed (it is named); 2 refused before any
         work.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from pipeline.common.cli import console
from pipeline.errors import ConfigError

BENCHES = {
    "tvl1": "jobs.bench.tvl1",
    "preprocess": "jobs.bench.preprocess",
    "loader": "jobs.bench.loader.command",
    "models": "jobs.bench.models.command",
    "training": "jobs.bench.training.command",
    "gpu": "jobs.bench.gpu.command",
}
"""Subcommand to the module whose ``run(arguments) -> exit code`` it is; imported when asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to a subcommand."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in ("-h", "--help"):
        console.print(*(__doc__ or "").splitlines(), sep="\n")
        return 0
    if not args or args[0] not in BENCHES:
        raise ConfigError(
            "bench",
            args[0] if args else "",
            f"name one of {', '.join(BENCHES)}: python -m jobs.bench {next(iter(BENCHES))} --help",
        )
    return importlib.import_module(BENCHES[args[0]]).run(args[1:])
