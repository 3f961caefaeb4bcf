"""Histograms as inline SVG that takes its colours and its font from the page, so that it reads on light and dark."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.common.inline_svg import BAR, FAINT, STYLE, to_svg

_BINS = 30
_INCHES = (3.9, 2.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture with the words for it."""

    title: str
    svg: str
    caption: str


def histogram(
    values: Sequence[float] | np.ndarray,
    *,
    title: str,
    unit: str,
    digits: int = 0,
    log_counts: bool = False,
    counted: str = "samples",
) -> Plot:
    """Distribution of one number per sample (or shard); ``values`` has at least one. No picture if all are equal.

    Args:
        unit: on the axis and in the caption.
        counted: what the values are of.
        digits: after the point, in the caption.
        log_counts: logarithmic count axis, for distributions with nearly everything at one end.
    """
    data = np.asarray(values, np.float64)
    low, high = float(data.min()), float(data.max())
    if low == high:
        return Plot(title=title, svg="", caption=f"{low:,.{digits}f} {unit}: the same for all {len(data):,} {counted}")
    whole = bool(np.all(data == np.rint(data))) and high - low < _BINS
    edges = np.arange(low - 0.5, high + 1.5) if whole else np.linspace(low, high, _BINS + 1)
    with plt.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = plt.subplots(figsize=_INCHES, layout="constrained")
        axes.hist(data, bins=list(edges), color=BAR, log=log_counts)
        axes.set_xlabel(unit)
        axes.set_ylabel(counted)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        if not log_counts:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        svg = to_svg(figure, title)
    caption = f"median {np.median(data):,.{digits}f}, from {low:,.{digits}f} to {high:,.{digits}f} {unit}"
    return Plot(title=title, svg=svg, caption=caption)


def bars(counts: Sequence[tuple[str, int]], *, title: str, caption: str) -> Plot:
    """Horizontal bars with their counts, first on top."""
    with plt.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = plt.subplots(figsize=(_INCHES[0], max(1.0, 0.24 * len(counts) + 0.4)), layout="constrained")
        drawn = axes.barh([name for name, _ in counts], [count for _, count in counts], color=BAR)
        axes.bar_label(drawn, [f"{count:,}" for _, count in counts], padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return Plot(title=title, svg=to_svg(figure, title), caption=caption)
