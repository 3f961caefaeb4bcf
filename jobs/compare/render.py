"""The tables of ``jobs.compare`` as text, Markdown and a page of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

from jobs.compare.evaluated import Evaluated
from jobs.compare.paired import Paired
from jobs.compare.rows import Row
from jobs.recipes.listing import print_wide
from pipeline.evaluation.report import METRICS

Format = Literal["text", "markdown", "html"]
_RUNS = ("run", "recipe", "data set", "split", "views x crops", "top-1", "top-5", "mean class accuracy")
ROW_HEADS = ("row", "recipe", "net", "printed", "here", "difference", "verdict")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #d9dee2; padding: 0.4rem 0.7rem; text-align: left; vertical-align: top; }
th { white-space: nowrap; background: #f4f6f8; }
td.yes { color: #1e7d43; } td.no { color: #8a4b08; }
"""


def run_cells(run: Evaluated) -> tuple[str, ...]:
    """One run: what was evaluated, and the fused scores with their intervals, in [0, 1]."""
    report = run.report
    what = (report.model, report.dataset, report.split, report.protocol)
    return (run.name, *what, *(report.score_text("fused", metric) for metric in METRICS))


def row_cells(row: Row) -> tuple[str, ...]:
    """One printed number and ours, both in the unit of the paper."""
    unit = "" if row.unit == "%" else f" {row.unit}"
    printed = f"{row.printed:g}{unit}"
    if row.ours is None or row.interval is None:
        return (row.source, row.recipe, row.what, printed, "-", "-", row.verdict)
    here = f"{row.ours:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"
    return (row.source, row.recipe, row.what, printed, here, f"{row.ours - row.printed:+.2f}", row.verdict)


def paired_text(found: Paired) -> str:
    """A paired comparison in a sentence."""
    low, high = (100 * bound for bound in found.interval)
    return (
        f"{found.first} against {found.second}, fused top-1 on the same {found.videos} videos:"
        f" {100 * found.difference:+.2f} points ({low:+.2f} to {high:+.2f}); {found.only_first} videos only the first"
        f" has right, {found.only_second} only the second, McNemar p {found.p:.3g}: {found.verdict}"
    )


def as_text(console: Console, runs: Sequence[Evaluated], rows: Sequence[Row], paired: Paired | None) -> None:
    """Print everything."""
    for heads, lines in _tables(runs, rows):
        table = Table(*heads, box=None, padding=(0, 2, 0, 0))
        for line in lines:
            table.add_row(*line)
        print_wide(console, table)
        console.print()
    for line in _notes(rows, paired):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def as_markdown(runs: Sequence[Evaluated], rows: Sequence[Row], paired: Paired | None) -> str:
    """The same as Markdown."""
    parts = []
    for heads, lines in _tables(runs, rows):
        table = [heads, tuple("---" for _ in heads), *lines]
        parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table))
    return "\n\n".join([*parts, *_notes(rows, paired)]) + "\n"


def as_html(runs: Sequence[Evaluated], rows: Sequence[Row], paired: Paired | None) -> str:
    """The same as one page that needs nothing else."""
    parts = []
    for heads, lines in _tables(runs, rows):
        head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
        body = "\n".join(
            f"<tr>{''.join(_cell(name, cell) for name, cell in zip(heads, line, strict=True))}</tr>" for line in lines
        )
        title = "Against the papers" if heads == ROW_HEADS else "Runs"
        parts.append(f'<h2>{title}</h2>\n<div class="wide"><table><tr>{head}</tr>\n{body}\n</table></div>')
    parts += [f"<p>{html.escape(line)}</p>" for line in _notes(rows, paired)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Comparison of runs</title><style>{_STYLE}</style></head>\n<body><h1>Comparison of runs</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _cell(name: str, text: str) -> str:
    kind = f' class="{"yes" if text == "comparable" else "no"}"' if name == "verdict" else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _tables(runs: Sequence[Evaluated], rows: Sequence[Row]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    tables = [(_RUNS, [run_cells(run) for run in runs]), (ROW_HEADS, [row_cells(row) for row in rows])]
    return [(heads, lines) for heads, lines in tables if lines]


def _notes(rows: Sequence[Row], paired: Paired | None) -> list[str]:
    notes = [paired_text(paired)] if paired else []
    if any(row.ours is not None for row in rows):
        notes.append("printed and here: per cent; in brackets: 95 % bootstrap intervals over videos, not over seeds")
    return notes
