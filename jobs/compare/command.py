"""Set runs beside the numbers that the papers print, and two runs beside each other.

    python -m jobs.compare RUN RUN ...                    # each beside its recipe's row; two also video by video
    python -m jobs.compare RUN RUN RUN --mean-of-splits   # of a data set's three splits: their mean, as papers print it
    python -m jobs.compare RUN ... --table crn-5          # all rows of a table: crn-1 to crn-6, mrst-2 to mrst-4
    python -m jobs.compare RUN ... --format html --out comparison.html

RUN is a run id or URI, or the URI of an ensemble's folder. A row is comparable if data set, split, protocol, initial
weights and fields are the paper's; otherwise the verdict says what differs.

Reads    each run's report, and its predictions where two runs are compared (written by jobs.evaluate).
Writes   standard output, or --out FILE.
Exit     0 compared, whatever came out; 2 refused.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TextIO

import tyro

from jobs.compare.evaluated import Evaluated, open_evaluated
from jobs.compare.paired import Paired, compare_two
from jobs.compare.render import Format, as_html, as_markdown, as_text
from jobs.compare.rows import Row, rows_of
from jobs.ensemble.members import Protocol
from jobs.recipes import ENSEMBLES, RECIPES
from pipeline.common.cli import PrintableConsole, console, parse
from pipeline.config.base import require
from pipeline.errors import ConfigError

_PAPERS = {"crn": "CRN", "mrst": "MRST"}


@dataclasses.dataclass(frozen=True)
class CompareArgs:
    """Compare evaluated runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run ids or URIs. None: with --table, the printed numbers alone."""
    table: str = ""
    """All rows of a paper's table: crn-1 to crn-6, mrst-2 to mrst-4."""
    mean_of_splits: bool = False
    """The runs of one recipe are those of a data set's splits: compare their mean."""
    split: str = ""
    """Split whose evaluations are compared; empty: test if a run was evaluated on it, else val."""
    num_views: int = 0
    """Clips of a video in those evaluations; 0: the paper's number if there is such an evaluation."""
    num_crops: Literal[1, 3] = 1
    format: Format = "text"
    out: Path | None = None
    """File to write to."""

    def __post_init__(self) -> None:
        require(bool(self.runs or self.table), "runs", self.runs, "name runs, or a table of a paper (--table crn-5)")
        require(self.num_views >= 0, "num_views", self.num_views, "must be 0 (default) or more")
        require(len(set(self.runs)) == len(self.runs), "runs", self.runs, "name each run once")
        if self.table:
            table_rows(self.table)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, compare and print."""
    args = parse(CompareArgs, args=argv, description=__doc__)
    protocol = Protocol(split=args.split, num_views=args.num_views, num_crops=args.num_crops)
    runs = [open_evaluated(name, protocol) for name in args.runs]
    rows = all_rows(runs, args)
    paired = compare_two(runs) if len(runs) == 2 and _same_videos(runs) else None
    if args.out is None:
        _write(sys.stdout, args.format, runs, rows, paired)
        return 0
    try:
        with args.out.open("w") as file:
            _write(file, args.format, runs, rows, paired)
    except OSError as error:
        raise ConfigError("out", str(args.out), f"cannot be written ({error.strerror}): name another file") from error
    console.print(f"written to {args.out}", markup=False)
    return 0


def _write(file: TextIO, wanted: Format, runs: Sequence[Evaluated], rows: Sequence[Row], paired: Paired | None) -> None:
    if wanted == "text":
        as_text(console if file is sys.stdout else PrintableConsole(file=file), runs, rows, paired)
    else:
        file.write((as_html if wanted == "html" else as_markdown)(runs, rows, paired))


def all_rows(runs: Sequence[Evaluated], args: CompareArgs) -> list[Row]:
    """Rows of the table, or of the runs' own recipes. A run whose recipe is in no paper has none."""
    by_recipe: dict[str, list[Evaluated]] = {}
    for run in runs:
        by_recipe.setdefault(run.report.model, []).append(run)
    names = table_rows(args.table) if args.table else [name for name in by_recipe if name in {**RECIPES, **ENSEMBLES}]
    if args.table and (strangers := [name for name in by_recipe if name not in names]):
        fix = f"{args.table} has no row of {', '.join(strangers)}: leave out --table, or those runs"
        require(False, "table", args.table, fix)
    listed = {name: by_recipe.get(name, []) for name in names}
    return [
        row
        for name, found in listed.items()
        for row in rows_of(name, found, mean_of_splits=args.mean_of_splits and bool(found), listed=listed)
    ]


def table_rows(table: str) -> list[str]:
    """Names of all recipes and ensembles of a paper's table.

    Raises:
        ConfigError: the papers have no such table.
    """
    entries = (*RECIPES.values(), *ENSEMBLES.values())
    known = sorted({found[0] for entry in entries if (found := re.match(r"(CRN|MRST) Table \d+", entry.row))})
    paper, _, number = table.partition("-")
    wanted = f"{_PAPERS.get(paper, paper)} Table {number}"
    names = {name: f"{name.split()[0].lower()}-{name.split()[2]}" for name in known}
    require(wanted in known, "table", table, f"must be one of {', '.join(names.values())}")
    return [entry.name for entry in entries if re.match(rf"{wanted}\b", entry.row)]


def _same_videos(runs: Sequence[Evaluated]) -> bool:
    return len({(run.report.manifest_digest, run.report.split) for run in runs}) == 1 and all(
        run.report.predictions for run in runs
    )
