"""The way from raw videos to a prediction: what is stored, and the command behind every arrow."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from docs.pictures.files import INK, MUTED, save_figure

STORED, MODEL, COMMAND = "#e3eefb", "#fdeedd", "#243b53"
EDGE = {STORED: "#5b8def", MODEL: "#e08a2c"}
S_NET, T_NET = "#c0392b", "#2471a3"
_WIDTH, _HEIGHT = 100.0, 132.0  # units; one is a tenth of an inch


def draw(path: Path) -> None:
    """Write the picture, 1,000 pixels wide: its text stays readable on a phone."""
    figure = Figure(figsize=(_WIDTH / 10, _HEIGHT / 10))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, _WIDTH)
    ax.set_ylim(_HEIGHT, 0)
    ax.axis("off")
    _box(ax, 3, 11, "Raw videos and annotation lists", "folders, archives or S3")
    _step(ax, 14, 28, "jobs.preprocess", "decode, TV-L1 flow,\nRGB difference, VP9")
    _box(ax, 28, 13, "Shards on S3 (or in a folder)", "RGB, flow, difference; the manifest is written last")
    _step(ax, 41, 55, "jobs.train", "read, decode and crop;\nranks on a Ray cluster")
    _models(ax, 55)
    _step(ax, 80, 94, "jobs.evaluate", "several views a video,\nevery video once")
    _box(ax, 94, 11, "Evaluation in MLflow", "top-1, top-5, per class, confusion matrix")
    _step(ax, 105, 119, "jobs.promote", "the alias moves to a\nbetter model only")
    _box(ax, 119, 11, "models:/NAME@champion", "jobs.predict: a video in, five classes out")
    save_figure(figure, path)


def _box(ax: Axes, top: float, height: float, title: str, detail: str, color: str = STORED) -> None:
    _frame(ax, 4, top, _WIDTH - 8, height, color)
    ax.text(50, top + height * 0.34, title, ha="center", va="center", fontsize=25, color=INK, weight="bold")
    ax.text(50, top + height * 0.72, detail, ha="center", va="center", fontsize=19.5, color=MUTED)


def _frame(ax: Axes, left: float, top: float, width: float, height: float, color: str) -> None:
    shape = FancyBboxPatch((left, top), width, height, boxstyle="round,pad=0,rounding_size=2", fc=color, lw=2)
    shape.set_edgecolor(EDGE[color])
    ax.add_patch(shape)


def _step(ax: Axes, top: float, bottom: float, command: str, what: str) -> None:
    """An arrow down, the command on it, what it does to its right."""
    _arrow(ax, (27, top + 0.4), (27, bottom - 0.4), COMMAND)
    middle = (top + bottom) / 2 - 0.6
    ax.text(
        27,
        middle,
        command,
        ha="center",
        va="center",
        family="monospace",
        fontsize=21,
        color="white",
        weight="bold",
        bbox={"boxstyle": "round,pad=0.35", "fc": COMMAND, "ec": "none"},
    )
    ax.text(52, middle, what, ha="left", va="center", fontsize=19.5, color=INK, linespacing=1.25)


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str, style: str = "-|>", bend: float = 0
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=24,
            lw=3,
            color=color,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def _models(ax: Axes, top: float) -> None:
    """CRN's two branches that read each other's hidden state, and MRST-Net next to them."""
    _frame(ax, 4, top, 59, 25, MODEL)
    ax.text(33.5, top + 4.4, "CRN", ha="center", va="center", fontsize=25, color=INK, weight="bold")
    for x, color, name, modality in ((16, S_NET, "S-Net", "RGB"), (51, T_NET, "T-Net", "flow")):
        ax.text(
            x,
            top + 13.6,
            f"{name}\n{modality}",
            ha="center",
            va="center",
            fontsize=20,
            color="white",
            weight="bold",
            linespacing=1.25,
            bbox={"boxstyle": "round,pad=0.45", "fc": color, "ec": "none"},
        )
    _arrow(ax, (25, top + 12), (42, top + 12), S_NET)
    _arrow(ax, (42, top + 15.2), (25, top + 15.2), T_NET)
    ax.text(33.5, top + 21.8, "hidden states at every step", ha="center", va="center", fontsize=18, color=MUTED)
    _frame(ax, 66, top, 30, 25, MODEL)
    ax.text(81, top + 4.4, "MRST-Net", ha="center", va="center", fontsize=25, color=INK, weight="bold")
    detail = "space and time\nreinforce each other;\nRGB alone"
    ax.text(81, top + 14.8, detail, ha="center", va="center", fontsize=18, color=MUTED, linespacing=1.35)
