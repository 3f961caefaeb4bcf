"""Plots of an evaluation."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.evaluation.report import EvalReport

_MOST_NAMES = 60  # more names do not fit next to the rows
_MOST_COUNTS = 20  # more numbers do not fit into the cells


def plot_confusion(report: EvalReport, path: Path) -> None:
    """Write the confusion matrix of the fused prediction as PNG: true classes in rows, predicted ones in columns,
    coloured by the share of the row.
    """
    counts = np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(report.classes)
    inches = min(4.5 + 0.42 * size, 16)
    figure, axes = plt.subplots(figsize=(inches + 0.8, inches), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    if size <= _MOST_NAMES:
        axes.set_xticks(range(size), report.classes, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(size), report.classes)
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
        f"{report.model}: {report.dataset} {report.split}, {report.protocol} views\ntop-1 {report.top1:.3f} of"
        f" {report.num_videos} videos",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
