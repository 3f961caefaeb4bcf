"""One synthetic clip as it is stored: RGB, TV-L1 flow in the colours of the Middlebury wheel, RGB difference."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import image
from matplotlib.figure import Figure

from docs.pictures.files import INK, MUTED, save_figure
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.errors import UserError
from pipeline.storage import open_storage
from preprocessing.report.pictures import NUM_MOMENTS, read_strips, wheel_legend
from preprocessing.report.survey import Pick
from preprocessing.synthetic.generate import SyntheticConfig, generate

SHORT_SIDE_PX = 128
SHOWN_PX = 256  # longest side of one frame
MAX_PX = 6.0  # length of a flow vector with a full colour
ROWS = {"rgb": "RGB", "flow": "flow", "diff": "difference"}
CLASS = "stripes_rise"


def draw(path: Path) -> None:
    """Draw the videos, preprocess them with the command, and show one sample."""
    with tempfile.TemporaryDirectory() as folder:
        strips = _stored_strips(Path(folder))
    figure = Figure(figsize=(10, 6.3))
    grid = figure.add_gridspec(
        len(ROWS), 2, width_ratios=(1.15, 8.85), left=0.01, right=0.99, top=0.93, bottom=0.015, wspace=0.02, hspace=0.05
    )
    for row, (modality, title) in enumerate(ROWS.items()):
        label, ax = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        for cell in (label, ax):
            cell.axis("off")
        ax.imshow(strips[modality], interpolation="bicubic", aspect="auto")
        label.text(0.5, 0.82 if modality == "flow" else 0.5, title, ha="center", va="center", fontsize=16, color=INK)
        if modality == "flow":
            wheel = label.inset_axes((0.1, 0.08, 0.8, 0.6))
            wheel.imshow(wheel_legend(160), interpolation="bicubic")
            wheel.axis("off")
    figure.text(
        0.01,
        0.965,
        f'Synthetic class "{CLASS}", {NUM_MOMENTS} moments; the wheel gives the colour of a direction',
        va="center",
        fontsize=15,
        color=MUTED,
    )
    save_figure(figure, path)


def _stored_strips(folder: Path) -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 by modality, the moments side by side."""
    raw, out = folder / "raw", f"file://{folder}/set"
    generate(SyntheticConfig(out=raw, train=1, val=0, test=0, appearances=1, motions=1, seed=3))
    command = [sys.executable, "-m", "jobs.preprocess", "--format", "ucf101", "--source", str(raw / "videos")]
    command += ["--annotations", str(raw), "--out", out, "--stored.short-side", str(SHORT_SIDE_PX)]
    environment = {**os.environ, "RECIPROCAL_STACK": "off", "RECIPROCAL_HOME": str(folder / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[1:])} failed: {done.stderr[-2000:]}")
    storage = open_storage(out)
    manifest = read_manifest(storage)
    (record,) = read_records(storage, manifest, "train")
    pick = Pick(f"{manifest.shards[0].path}.tar", record.samples[0])
    strips = read_strips(storage, pick, manifest.modalities, SHOWN_PX)
    jpegs = {**strips.jpegs, "flow": strips.flow_jpeg(float(manifest.parameters["flow_bound"]), MAX_PX)}
    return {name: image.imread(io.BytesIO(data), format="jpeg") for name, data in jpegs.items()}
