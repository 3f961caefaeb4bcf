"""Describe a stored data set in one HTML page with totals, warnings, contact sheets, distributions and rejects.

    python -m jobs.report s3://bucket/kinetics --out report.html
    python -m jobs.report file:///data/toy --out toy.html --samples-per-class 8

Reads    the manifest, every record, and with ranged GETs the few samples that are shown.
Writes   --out, which needs no other files and no network. The same data set gives the same page.
Exit     0 written. 1 reading or writing failed. 2 no data set there, or wrong arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import Progress

from pipeline.common.atomic import write_atomically
from pipeline.common.cli import console, parse, run_main
from pipeline.common.words import counted
from pipeline.config.base import require
from pipeline.errors import ReciprocalError
from pipeline.storage import open_storage
from preprocessing.report.page import make_report


@dataclasses.dataclass(frozen=True)
class ReportArgs:
    """Write a data set's report page."""

    uri: Annotated[str, tyro.conf.Positional]
    """The data set: s3://BUCKET/PREFIX or file:///FOLDER."""
    out: Path
    """HTML file to write."""
    samples_per_class: int = 4
    """Samples on the contact sheet of a class; 0: no contact sheets."""
    max_classes: int = 100
    """Classes with a contact sheet, evenly spaced over the labels; tables have all of them."""

    def __post_init__(self) -> None:
        require(
            self.out.absolute().parent.is_dir(),
            "out",
            str(self.out),
            "its folder does not exist: create it, or give another",
        )
        require(not self.out.is_dir(), "out", str(self.out), "is a folder: give a file in it")
        require(0 <= self.samples_per_class <= 100, "samples_per_class", self.samples_per_class, "must be in 0..100")
        require(self.max_classes >= 1, "max_classes", self.max_classes, "must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and write."""
    return report(parse(ReportArgs, args=argv, description=__doc__))


def report(args: ReportArgs) -> int:
    """Write the page; returns the exit code.

    Raises:
        UserError: there is no data set, or its storage cannot be reached.
        ReciprocalError: reading or writing failed.
    """
    storage = open_storage(args.uri)
    storage.probe(write=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("classes", total=None)
        page = make_report(
            storage,
            samples_per_class=args.samples_per_class,
            max_classes=args.max_classes,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    try:
        write_atomically(args.out.absolute(), page.html)  # a browser that reloads sees the old page or the new one
    except OSError as error:
        raise ReciprocalError(f"cannot write {args.out}: {error}") from error
    for warning in page.warnings:
        console.print(f"worth a look: {warning}", markup=False)
    console.print(
        f"{args.out}: {len(page.html) / 1e6:.2f} MB, {counted(page.num_samples_shown, 'sample')} of"
        f" {counted(page.num_classes_shown, 'class', 'classes')}",
        markup=False,
    )
    return 0


if __name__ == "__main__":
    run_main(main)
