"""Plots of an evaluation."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager

from pipeline.common.printable import printable
from pipeline.evaluation.report import EvalReport

_MOST_NAMES = 60  # more names do not fit next to the rows
_MOST_COUNTS = 20  # more numbers do not fit into the cells
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
    """
    installed = set(font_manager.get_font_names())
    fonts = [*matplotlib.rcParams["font.family"], *(name for name in _MORE_FONTS if name in installed)]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _draw(report, path)


def _draw(report: EvalReport, path: Path) -> None:
    counts = np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(report.classes)
    names = [printable(name) for name in report.classes]
    inches = min(4.5 + 0.42 * size, 16)
    figure, axes = plt.subplots(figsize=(inches + 0.8, inches), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    if size <= _MOST_NAMES:
        axes.set_xticks(range(size), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(size), names, parse_math=False)
    if size <= _MOST_COUNTS:
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
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        f"{printable(report.model)}: {printable(report.dataset)} {report.split}, {report.protocol} views\n"
        f"top-1 {report.top1:.3f} of {report.num_videos} videos",
        fontsize=11,
        parse_math=False,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
