"""Plots of an evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.ticker import MaxNLocator

from pipeline.common.inline_svg import BAR, FAINT, INK, STYLE, to_svg
from pipeline.common.printable import printable
from pipeline.evaluation.breakdown import Group
from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.confused import class_groups, class_order
from pipeline.evaluation.report import EvalReport

_MOST_NAMES = 60  # more names do not fit next to the rows
MOST_COUNTS = 20  # more numbers do not fit into the cells
# Looked at in this order for letters that matplotlib's own font lacks; what no installed font has is drawn as a box.
_MORE_FONTS = (
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "IPAGothic",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)


def plot_confusion(report: EvalReport, path: Path) -> None:
    """Write the confusion matrix of the fused prediction as PNG: true classes in rows, predicted ones in columns,
    coloured by the share of the row.

    More than 20 classes are in the order of ``confused.class_order``, and the groups of ``confused.class_groups`` are
    framed and numbered.
    """
    installed = set(font_manager.get_font_names())
    fonts = [*matplotlib.rcParams["font.family"], *(name for name in _MORE_FONTS if name in installed)]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _draw(report, path)


def _draw(report: EvalReport, path: Path) -> None:
    counts = np.array(report.confusion)
    size = len(report.classes)
    order, groups = list(range(size)), list[list[int]]()
    if size > MOST_COUNTS:
        order, groups = class_order(counts), class_groups(counts)
        counts = counts[np.ix_(order, order)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [printable(report.classes[label]) for label in order]
    inches = min(4.5 + 0.42 * size, 16)
    big = 18 if size > _MOST_NAMES else 11
    figure, axes = plt.subplots(figsize=(inches + 0.8, inches), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    if size <= _MOST_NAMES:
        axes.set_xticks(range(size), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(size), names, parse_math=False)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if size <= MOST_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(
                    column,
                    row,
                    str(count),
                    ha="center",
                    va="center",
                    color="white" if shares[row, column] > 0.5 else "black",
                )
    _frame_groups(axes, order, groups)
    axes.set_xlabel("predicted", fontsize=big)
    axes.set_ylabel("true", fontsize=big)
    axes.set_title(
        f"{printable(report.model)}: {printable(report.dataset)} {report.split}, {report.protocol} views\n"
        f"top-1 {report.top1:.3f} of {report.num_videos} videos"
        + ("; classes that are taken for each other side by side" if size > MOST_COUNTS else ""),
        fontsize=big,
        parse_math=False,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _frame_groups(axes: plt.Axes, order: list[int], groups: list[list[int]]) -> None:
    places = {label: place for place, label in enumerate(order)}
    for number, group in enumerate(groups, 1):
        first = min(places[label] for label in group) - 0.5
        axes.add_patch(plt.Rectangle((first, first), len(group), len(group), fill=False, edgecolor="#c4451c"))
        axes.annotate(str(number), (first + len(group), first), color="#c4451c", fontsize=9, va="bottom")


def reliability(found: Calibration) -> str:
    """Inline SVG: how often the fused prediction is right, by how probable it says it is, and the number of videos of
    each bin below.
    """
    filled = [(place, one) for place, one in enumerate(found.bins) if one.num_videos]
    width = 1 / len(found.bins)
    centres = [(place + 0.5) * width for place, _ in filled]
    with plt.rc_context({**STYLE, "svg.hashsalt": "reliability"}):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(3.9, 3.6), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        top.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
        top.bar(centres, [one.accuracy for _, one in filled], width=0.9 * width, color=BAR)
        top.set_ylim(0, 1)
        top.set_ylabel("share that is right")
        bottom.bar(centres, [one.num_videos for _, one in filled], width=0.9 * width, color=BAR)
        bottom.set_xlim(0, 1)
        bottom.set_xlabel("probability of the prediction")
        bottom.set_ylabel("videos")
        bottom.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        return to_svg(figure, "Reliability of the fused prediction")


def accuracy_plot(groups: Sequence[Group], *, title: str, unit: str, digits: int) -> str:
    """Inline SVG: accuracy of each group with its interval.

    Args:
        unit: of the groups' bounds.
        digits: after the point of a bound.
    """
    places = list(range(len(groups)))
    accuracies = [group.accuracy for group in groups]
    errors = [
        [max(0.0, group.accuracy - group.interval[0]) for group in groups],
        [max(0.0, group.interval[1] - group.accuracy) for group in groups],
    ]
    with plt.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = plt.subplots(figsize=(3.9, 2.3), layout="constrained")
        axes.errorbar(places, accuracies, yerr=errors, fmt="o", color=BAR, ecolor=BAR, capsize=3, markersize=5)
        axes.set_xticks(places, [bounds(group, digits).replace(" to ", " to\n") for group in groups])
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel(unit)
        axes.set_ylabel("top-1")
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        return to_svg(figure, title)


def bounds(group: Group, digits: int) -> str:
    """A group's lowest and highest value as text, once where they are the same."""
    low, high = f"{group.low:,.{digits}f}", f"{group.high:,.{digits}f}"
    return low if low == high else f"{low} to {high}"
