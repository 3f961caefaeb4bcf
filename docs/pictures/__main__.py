"""Refresh the pictures of the documentation.

    python -m docs.pictures                       # all of them; the MLflow pages need a stack that ran the demo
    python -m docs.pictures architecture clip     # only these

Reads    docs/ablations/ (for ablations), the local stack's MLflow (for run and registry).
Writes   docs/images/, or --out FOLDER: one file for each picture.
Exit     0 written; 1 Chromium failed; 2 what a picture needs is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from docs.pictures import ablations, architecture, clip, mlflow_pages
from pipeline.common.cli import console, parse, run_main

PICTURES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "architecture": ("architecture.png", architecture.draw),
    "clip": ("clip.jpg", clip.draw),
    "ablations": ("ablations.png", ablations.draw),
    "ablation-coupling": ("ablation-coupling.png", ablations.draw_question),
    "ablation-rib": ("ablation-rib.png", ablations.draw_question),
    "mlflow-run": ("mlflow-run.png", mlflow_pages.draw_run),
    "mlflow-registry": ("mlflow-registry.png", mlflow_pages.draw_registry),
}


@dataclasses.dataclass(frozen=True)
class PicturesArgs:
    """Which pictures, and where they go."""

    names: Annotated[
        tuple[
            Literal[
                "architecture",
                "clip",
                "ablations",
                "ablation-coupling",
                "ablation-rib",
                "mlflow-run",
                "mlflow-registry",
            ],
            ...,
        ],
        tyro.conf.Positional,
    ] = ()
    """None: all."""
    out: Path = Path(__file__).parents[1] / "images"
    """Folder to write to."""


def main() -> int:
    """Draw what was asked for."""
    args = parse(PicturesArgs, description=__doc__)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or tuple(PICTURES):
        file, draw = PICTURES[name]
        path = args.out / file
        draw(path)
        console.print(f"{path}  {path.stat().st_size / 1000:.0f} kB", markup=False)
    return 0


if __name__ == "__main__":
    run_main(main)
