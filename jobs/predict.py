"""Classify raw video files with a registered model.

    python -m jobs.predict models:/synthetic-crn@champion video.mp4 other.avi

Reads    the model from the MLflow registry, the files from this machine. The model runs with the code of this
         installation; elsewhere, without the project, it runs with the copy of the code that it carries.
Prints   the five most probable classes of every file.
Exit     0 all files answered; 2 the model or a file cannot be read (nothing is printed for it).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro
from rich.table import Table

# A registered model carries a copy of `pipeline` and `preprocessing`, made when it was registered. MLflow puts that
# copy first on the path, but what this process has imported already stays: were `preprocessing` imported by the model
# alone, it would run with this `pipeline` and its own, possibly older `preprocessing`. Everything that prediction uses
# is therefore imported here, so that one version of the code runs.
import pipeline.serving.predictor  # noqa: F401
from pipeline.common.cli import console, parse, run_main
from pipeline.errors import UserError
from pipeline.tracking.registry import load_model
from pipeline.tracking.runs import check_server


@dataclasses.dataclass(frozen=True)
class PredictArgs:
    """Classify video files."""

    model: Annotated[str, tyro.conf.Positional]
    """models:/NAME@ALIAS or models:/NAME/VERSION."""
    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Video files of any format that FFmpeg reads."""
    top: int = 5
    """Classes to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and predict."""
    return predict(parse(PredictArgs, args=argv, description=__doc__))


def predict(args: PredictArgs) -> int:
    """Load the model, print the answers; returns the exit code."""
    if missing := [str(path) for path in args.videos if not path.is_file()]:
        raise UserError(f"no such file: {', '.join(missing)}")
    if not args.videos:
        raise UserError("videos: give at least one video file")
    check_server()
    model = load_model(args.model)
    for path in args.videos:
        start = time.perf_counter()
        try:
            answer = model.predict(pd.DataFrame({"video": [path.read_bytes()]})).iloc[0]
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        table = Table(
            "class", "probability", title=f"{path} ({time.perf_counter() - start:.2f} s)", title_justify="left"
        )
        for label, probability in list(zip(answer["labels"], answer["probabilities"], strict=True))[: args.top]:
            table.add_row(label, f"{probability:.4f}")
        console.print(table)
    return 0


if __name__ == "__main__":
    run_main(main)
