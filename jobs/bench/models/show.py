"""Prints a result of ``jobs.bench models``: counts, times, and what was measured on a GPU."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from jobs.recipes.listing import print_wide
from pipeline.common.cli import console


def show(result: dict[str, Any]) -> None:
    """Print a result: counts, times, and what was measured on a GPU."""
    console.print(
        f"{result['hardware']['gpu'] or result['hardware']['cpu']}, {result['threads']} threads, scale"
        f" {result['scale']:g}; 2 FLOP per multiply-add",
        markup=False,
    )
    counts = Table(
        "", "M params", "paper", "MB", "GFLOP", "paper", "fast path", "bound", box=None, padding=(0, 2, 0, 0)
    )
    times = Table(
        "forward + backward",
        "literal ms",
        "fast ms",
        "speed-up",
        "bound",
        "max diff",
        "literal MB",
        "fast MB",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for row in result["rows"]:
        counts.add_row(
            row["name"],
            f"{row['params'] / 1e6:.2f}",
            _text(row["paper_params"], 1e6, 1),
            f"{row['weights_mb']:.1f}",
            f"{row['gflop']:.1f}",
            _text(row["paper_gflop"], 1, 1),
            f"{row['fast_gflop']:.1f}",
            f"{row['bound']:.2f}",
        )
        if row["fast_ms"] is not None or row["fast_peak_mb"] is not None:
            diff = "-" if row["max_abs_diff"] is None else f"{row['max_abs_diff']:.1e}"
            times.add_row(
                row["name"],
                _text(row["literal_ms"], 1, 0),
                _text(row["fast_ms"], 1, 0),
                _text(row["speedup"], 1, 2),
                f"{row['bound']:.2f}",
                diff,
                _text(row["literal_peak_mb"], 1, 0),
                _text(row["fast_peak_mb"], 1, 0),
            )
    for table in (counts, times):
        if table.rows:
            print_wide(console, table)
    for row in result["rows"]:
        if row.get("fast_gradient_error") is not None:
            console.print(
                f"{row['name']}: gradients of the two paths differ by {row['float64_gradient_relative_diff']:.1e} in"
                f" float64, by {row['gradient_relative_diff']:.1e} in float32 (from float64's the fast ones by"
                f" {row['fast_gradient_error']:.1e}, the literal ones by {row['literal_gradient_error']:.1e})",
                markup=False,
            )
    for why in dict.fromkeys(
        row["why"] for row in result["rows"] if row["why"] and (row["paper_params"] or row["paper_gflop"])
    ):
        console.print(f"* {', '.join(row['name'] for row in result['rows'] if row['why'] == why)}: {why}", markup=False)
    for kind, unit in (("training", "clips_per_s"), ("inference", "frames_per_s")):
        for row in result.get("gpu", {}).get(kind, ()):
            share = f", {row['share_of_matrix_rate']:.0%} of the matrix rate" if "share_of_matrix_rate" in row else ""
            figure = row["error"] or f"{row[unit]:.1f} {unit.replace('_per_', '/')}{share}"
            console.print(
                f"{kind}, {row['name']}, batch {row['batch']}, {'compiled' if row['compiled'] else 'eager'}: {figure}",
                markup=False,
            )


def _text(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
