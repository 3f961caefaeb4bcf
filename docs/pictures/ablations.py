"""What the ablations found, from docs/ablations/QUESTION.json, which ``python -m jobs.ablations`` writes.

One picture sets coupled beside uncoupled streams, for the README; the others are the tool's own, one a question.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from docs.pictures.files import INK, MUTED, save_figure, save_png
from jobs.ablations.picture import plot

FOLDER = Path(__file__).parents[1] / "ablations"
VARIANTS = {
    "plain": "two uncoupled streams",
    "ncrn": "N-CRN: each reads its own past",
    "ncrn-rib": "N-CRN with RIB, as large as CRN",
    "late": "late fusion",
    "early": "early fusion",
    "crn": "CRN: each reads the other's past",
}
STREAMS = {"rgb": ("S-Net (RGB)", "#c0392b"), "flow": ("T-Net (flow)", "#2471a3"), "fused": ("whole", INK)}
_GAP = 0.24


def read(question: str) -> dict[str, Any]:
    """What the file of a question says."""
    return json.loads((FOLDER / f"{question}.json").read_text())


def draw(path: Path) -> None:
    """Coupled and uncoupled streams on the binding videos: means and their intervals."""
    summary = read("coupling")
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    ax = figure.add_subplot()
    for row, variant in enumerate(reversed(VARIANTS)):
        scores = {score["stream"]: score for score in summary["scores"] if score["variant"] == variant}
        for place, (stream, (_, color)) in enumerate(STREAMS.items()):
            if stream not in scores:
                continue
            mean, low, high = (100 * scores[stream][name] for name in ("mean", "low", "high"))
            y = row + _GAP * (1 - place) if len(scores) > 1 else row
            error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            ax.errorbar(mean, y, xerr=error, fmt="o", color=color, capsize=5, lw=2, capthick=2, markersize=8)
    for title, color in STREAMS.values():
        ax.plot([], [], "o", color=color, markersize=8, label=title)
    chance = 100 * summary["chance"]
    ax.axvline(chance, color=MUTED, linestyle=":", lw=2)
    ax.text(chance, len(VARIANTS) - 0.45, "chance ", ha="right", va="top", fontsize=13, color=MUTED)
    ax.set_yticks(range(len(VARIANTS)), list(reversed(VARIANTS.values())), fontsize=14, color=INK)
    ax.set_ylim(-0.6, len(VARIANTS) - 0.4)
    ax.set_xlim(40, 102)
    ax.set_xticks(range(40, 101, 10), [f"{tick} %" for tick in range(40, 101, 10)], fontsize=13, color=MUTED)
    title = f"Test top-1 on the binding videos, {summary['seeds']} seeds, 95 % intervals"
    figure.suptitle(title, fontsize=15, color=INK)
    ax.grid(axis="x", color="#e3e7ea")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=0)
    ax.legend(fontsize=13, loc="lower center", ncols=3, bbox_to_anchor=(0.4, -0.22), frameon=False, handletextpad=0.2)
    save_figure(figure, path)


def draw_question(path: Path) -> None:
    """Of ``ablation-QUESTION.png``, the tool's own picture."""
    buffer = io.BytesIO()
    plot(read(path.stem.removeprefix("ablation-")), buffer)
    save_png(buffer.getvalue(), path)
