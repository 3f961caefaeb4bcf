"""The scores of every class, as a table for people and as CSV for programs."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np

from pipeline.evaluation.intervals import wilson_interval
from pipeline.evaluation.report import EvalReport

COLUMNS = ("class", "videos", "right", "recall", "low", "high", "taken_for", "times")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of an evaluation. Recall and its interval (Wilson's, 95 %) are None where the split has no video of
    it.
    """

    name: str
    videos: int
    right: int
    recall: float | None
    low: float | None
    high: float | None
    taken_for: str
    """The other class that its videos are most often taken for; empty: none is."""
    times: int


def class_rows(report: EvalReport) -> list[ClassRow]:
    """All classes in the data set's order, by the fused prediction."""
    rows = []
    for label, (name, line) in enumerate(zip(report.classes, report.confusion, strict=True)):
        counts = np.array(line)
        right, total = int(counts[label]), int(counts.sum())
        counts[label] = 0
        other = int(counts.argmax())
        low, high = wilson_interval(right, total) if total else (None, None)
        rows.append(
            ClassRow(
                name=name,
                videos=total,
                right=right,
                recall=right / total if total else None,
                low=low,
                high=high,
                taken_for=report.classes[other] if counts[other] else "",
                times=int(counts[other]),
            )
        )
    return rows


def as_csv(rows: list[ClassRow]) -> str:
    """A line a class below a line of ``COLUMNS``; numbers in full, in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["" if value is None else value for value in dataclasses.astuple(row)])
    return text.getvalue()
