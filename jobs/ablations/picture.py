"""A question's picture: top-1 of every variant on the left, the paired comparisons on the right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.figure import Figure

from jobs.ablations.report import TITLES

_COLORS = {"rgb": "#c0392b", "flow": "#2471a3", "fused": "#222222"}
_DECIDED, _OPEN = "#1e8449", "#8a8f94"


def plot(summary: Mapping[str, Any], path: Path | BinaryIO) -> None:
    """Write a PNG from what ``report.as_json`` returns."""
    scores, comparisons = summary["scores"], summary["comparisons"]
    streams = [s for s in TITLES if any(score["stream"] == s for score in scores)]
    height = 1.6 + max(0.2 + 0.17 * len(scores), 0.5 + 0.3 * len(comparisons))
    figure = Figure(figsize=(13, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_scores(left, summary, streams)
    _draw_comparisons(right, comparisons)
    figure.suptitle(f"{summary['question']}  ({summary['source']})", fontsize=12, x=0.01, ha="left")
    figure.savefig(path, dpi=110, format="png")


def _draw_scores(ax: Any, summary: Mapping[str, Any], streams: list[str]) -> None:
    names = list(summary["titles"])
    labelled: set[str] = set()
    for row, name in enumerate(reversed(names)):
        own = {score["stream"]: score for score in summary["scores"] if score["variant"] == name}
        for stream, score in ((stream, own[stream]) for stream in streams if stream in own):
            y = row - 0.24 * (streams.index(stream) - (len(streams) - 1) / 2)
            units = [100 * result["top1"][stream] for result in summary["results"][name]]
            color = _COLORS.get(stream, "#222222")
            mean, low, high = (100 * score[key] for key in ("mean", "low", "high"))
            ax.plot(units, [y] * len(units), ".", color=color, alpha=0.35, markersize=5)
            label = None if stream in labelled else TITLES.get(stream, stream)
            error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            ax.errorbar(mean, y, xerr=error, fmt="o", color=color, capsize=2, markersize=5, label=label)
            labelled.add(stream)
    ax.axvline(100 * summary["chance"], color="#888888", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(names)), [summary["titles"][name] for name in reversed(names)])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(
        "test top-1, %\nsmall dots: trainings; circles and bars: mean and its 95 % bootstrap interval; dotted: chance",
        fontsize=9,
    )
    _grid(ax)
    if len(streams) > 1:
        ax.legend(fontsize=8, loc="best", framealpha=0.9)


def _draw_comparisons(ax: Any, comparisons: list[Mapping[str, Any]]) -> None:
    for row, c in enumerate(reversed(comparisons)):
        color = _OPEN if c["verdict"] == "undecided" else _DECIDED
        mean, low, high = (100 * c[key] for key in ("difference", "low", "high"))
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        ax.errorbar(mean, row, xerr=error, fmt="s", color=color, capsize=3, markersize=5)
        ax.annotate(
            f"p {c['corrected_p']:.3f}, {c['verdict']}",
            (1.02, row),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color=color,
            va="center",
        )
    labels = [c["title"] for c in reversed(comparisons)]
    ax.axvline(0, color="#444444", linewidth=1)
    ax.set_yticks(range(len(comparisons)), labels)
    ax.set_ylim(-0.7, len(comparisons) - 0.3)
    ax.set_xlabel(
        "whole networks, difference in points: mean and its 95 % paired bootstrap interval\n"
        "p: exact sign-flip test, Holm's correction; grey: undecided",
        fontsize=9,
    )
    _grid(ax)


def _grid(ax: Any) -> None:
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
