"""Small files: PNG with a palette of 256 colours for diagrams and pages, JPEG for frames of videos."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from PIL import Image

INK = "#1f2933"
MUTED = "#5b6770"


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """A figure on a white background, which also reads in dark mode."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, facecolor="white")
    if path.suffix == ".jpg":
        Image.open(buffer).convert("RGB").save(path, quality=90, subsampling=0, optimize=True)
    else:
        save_png(buffer.getvalue(), path)


def save_png(png: bytes, path: Path) -> None:
    """Reduce to a palette without dithering, and write: the same picture gives the same bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
