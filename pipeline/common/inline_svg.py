"""Plots as inline SVG that takes its colours and its font from the page, so that it reads on light and dark."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Stand-ins that a plot is drawn with, and what the page puts in their place.
INK, BAR, FAINT = "#010203", "#010204", "#010205"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
"""For ``plt.rc_context``; with ``svg.hashsalt``, the same plot gives the same text."""


def to_svg(figure: plt.Figure, title: str) -> str:
    """The text of an ``<svg>`` element as wide as its place; the figure is closed.

    Args:
        figure: drawn with ``STYLE`` and the colours INK, BAR and FAINT.
        title: what a screen reader says; no markup.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text, count=1
    )
    text = text.replace("xlink:href", "href")
    for stand_in, colour in ((INK, "currentColor"), (BAR, "var(--bar)"), (FAINT, "var(--line)")):
        text = text.replace(stand_in, colour)
    return re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", text)
