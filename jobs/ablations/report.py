"""Means, error bars and conclusions of ``jobs.ablations`` as tables, a plot and plain numbers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Column, Table

from jobs.ablations.variants import VARIANTS, Group
from jobs.recipes.listing import print_wide

CONFIDENCE = 0.95
_COLORS = {"rgb": "#c0392b", "flow": "#2471a3", "fused": "#222222"}
_TITLES = {"rgb": "S-Net (RGB)", "flow": "T-Net (flow)", "fused": "mean / whole"}
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Variant -> the results of its seeds, in ascending order, as ``training.train_and_test`` returns them."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Top-1 of ``better`` minus that of ``worse`` (in the paper's order), seed by seed."""

    group: str
    stream: str
    worse: str
    better: str
    difference: float
    half_width: float | None
    """Half width of the 95 % confidence interval of the mean difference (Student's t); None with one seed."""

    @property
    def verdict(self) -> str:
        """as the paper | the opposite | undecided: whether the confidence interval excludes zero, and on which side."""
        if self.half_width is None or abs(self.difference) <= self.half_width:
            return "undecided"
        return "as the paper" if self.difference > 0 else "the opposite"


def values(results: Results, variant: str, stream: str) -> list[float]:
    """Top-1 of every seed."""
    return [result["top1"][stream] for result in results[variant]]


def mean_and_sd(numbers: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation (n - 1) over the seeds, which is None with one seed."""
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


def compare(group: Group, stream: str, worse: str, better: str, results: Results) -> Comparison:
    """One comparison, paired by seed: both trainings of a seed see the same clips in the same order."""
    from scipy.stats import t as student_t  # of the extra "bench": jobs.ablations refuses to start without it

    apart = [b - a for a, b in zip(values(results, worse, stream), values(results, better, stream), strict=True)]
    mean, sd = mean_and_sd(apart)
    half = None if sd is None else float(student_t.ppf(0.5 + CONFIDENCE / 2, len(apart) - 1)) * sd / len(apart) ** 0.5
    return Comparison(group.name, stream, worse, better, mean, half)


def comparisons(groups: Sequence[Group], results: Results) -> list[Comparison]:
    """Comparisons of neighbours in the paper's order, and of its first with its last."""
    found = []
    for group in groups:
        pairs = [
            *pairwise(group.variants),
            *([(group.variants[0], group.variants[-1])] if len(group.variants) > 2 else []),
        ]
        found += [compare(group, stream, worse, better, results) for stream in group.streams for worse, better in pairs]
    return found


def as_json(groups: Sequence[Group], results: Results) -> dict[str, Any]:
    """All results and comparisons, as JSON values."""
    summary = {}
    for name, taken in results.items():
        streams = taken[0]["top1"]
        summary[name] = {
            stream: dict(zip(("mean", "sd"), mean_and_sd(values(results, name, stream)), strict=True))
            for stream in streams
        }
    return {
        "confidence": CONFIDENCE,
        "groups": [dataclasses.asdict(group) for group in groups],
        "summary": summary,
        "comparisons": [{**dataclasses.asdict(c), "verdict": c.verdict} for c in comparisons(groups, results)],
        "results": {name: list(taken) for name, taken in results.items()},
    }


def show(console: Console, groups: Sequence[Group], results: Results) -> None:
    """Print the means and the differences of every group."""
    for group in groups:
        table = Table(
            Column("variant, from worst to best in the paper", no_wrap=True),
            *(_TITLES[s] for s in group.streams),
            "M params",
            title=f"{group.question} ({group.source})",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for name in group.variants:
            cells = [_with_error(*mean_and_sd(values(results, name, stream))) for stream in group.streams]
            table.add_row(VARIANTS[name].title, *cells, f"{results[name][0]['params'] / 1e6:.2f}")
        print_wide(console, table)
        for c in comparisons([group], results):
            error = "" if c.half_width is None else f" +- {100 * c.half_width:.1f}"
            console.print(
                f"  {c.better} - {c.worse}, {_TITLES[c.stream]}: {100 * c.difference:+.1f}{error} points: {c.verdict}",
                markup=False,
            )


def _with_error(mean: float, sd: float | None) -> str:
    return f"{100 * mean:.1f}" + ("" if sd is None else f" +- {100 * sd:.1f}")


def plot(groups: Sequence[Group], results: Results, chance: float, path: Path) -> None:
    """Plot top-1 of every variant as PNG: small dots are seeds, circles means, bars one standard deviation."""
    heights = [0.2 + len(group.variants) * (0.16 + 0.14 * len(group.streams)) for group in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(9.5, sum(heights) + 0.6 * len(groups) + 0.6),
        height_ratios=heights,
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    for ax, group in zip(axes[:, 0], groups, strict=True):
        for row, name in enumerate(group.variants):
            for place, stream in enumerate(group.streams):
                y = row + 0.24 * (place - (len(group.streams) - 1) / 2)
                taken = [100 * v for v in values(results, name, stream)]
                mean, sd = mean_and_sd(taken)
                ax.plot(taken, [y] * len(taken), ".", color=_COLORS[stream], alpha=0.4, markersize=5)
                ax.errorbar(
                    mean,
                    y,
                    xerr=sd,
                    fmt="o",
                    color=_COLORS[stream],
                    capsize=2,
                    markersize=5,
                    label=_TITLES[stream] if row == 0 else None,
                )
        ax.axvline(100 * chance, color="#888888", linestyle=":", linewidth=1)
        ax.set_yticks(range(len(group.variants)), [VARIANTS[name].title for name in group.variants])
        ax.set_ylim(-0.6, len(group.variants) - 0.4)
        ax.set_title(f"{group.question}  ({group.source})", fontsize=10, loc="left")
        ax.grid(axis="x", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
        if len(group.streams) > 1:
            ax.legend(fontsize=8, loc="best", framealpha=0.9)
    axes[-1, 0].set_xlabel(
        "test top-1, %; the paper's best variant on top\n"
        "small dots: seeds; circles: means; bars: one standard deviation; dotted: chance",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
