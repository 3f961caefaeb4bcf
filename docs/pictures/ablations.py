"""Coupled against uncoupled streams with error bars, from docs/ablations.json.

The file is what ``python -m jobs.ablations`` writes as JSON; only ``summary`` is read (fractions, not per cent).
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from docs.pictures.files import INK, MUTED, save_figure

SOURCE = Path(__file__).parents[1] / "ablations.json"
VARIANTS = {"plain": ("two uncoupled streams", "#b0b7be"), "ncrn": ("N-CRN", "#e0a458"), "crn": ("CRN", "#2471a3")}
STREAMS = {"rgb": "S-Net\n(RGB)", "flow": "T-Net\n(flow)", "fused": "mean\nof both"}
_BAR = 0.27


def draw(path: Path) -> None:
    """Write the picture."""
    summary = json.loads(SOURCE.read_text())["summary"]
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    ax = figure.add_subplot()
    for place, (variant, (title, color)) in enumerate(VARIANTS.items()):
        for group, stream in enumerate(STREAMS):
            mean, sd = (100 * summary[variant][stream][name] for name in ("mean", "sd"))
            x = group + (place - 1) * _BAR
            ax.bar(x, mean, _BAR * 0.92, color=color, label=title if group == 0 else None)
            ax.errorbar(x, mean, yerr=sd, color=INK, capsize=6, lw=2, capthick=2)
            ax.text(x, mean + sd + 1.5, f"{mean:.1f}", ha="center", va="bottom", fontsize=14, color=INK)
    ax.set_xticks(range(len(STREAMS)), list(STREAMS.values()), fontsize=16, color=INK)
    ax.set_ylim(0, 119)
    ax.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)], fontsize=14, color=MUTED)
    ax.set_title(
        "Test top-1 on 12 synthetic classes; error bars: one standard deviation", fontsize=15, color=INK, pad=12
    )
    ax.grid(axis="y", color="#e3e7ea")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=0)
    ax.legend(fontsize=14, ncols=3, loc="upper left", frameon=False, handlelength=1.2, columnspacing=1.4)
    save_figure(figure, path)
