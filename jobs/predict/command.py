"""Classify raw video files with a registered model.

    python -m jobs.predict models:/synthetic-crn@champion video.mp4 other.avi
    python -m jobs.predict models:/synthetic-crn/3 *.mp4 --json answers.json

Reads    weights and card of the model from the MLflow registry, as data; the digests of both in the folder of the run
         that the model was registered from; the files from this machine. The model runs with the code of this
         installation. The code that a version carries is for machines without this project and is not run; with
         --code carried it is, once its digest is that in the run's folder.
Prints   the most probable classes of every file and the time the answer took; a file that cannot be answered is named
         with the reason on standard error. --json FILE has the same for programs.
Exit     0 all files answered; 1 at least one was not, the others were; 2 refused before any answer: the model cannot be
         used, or there is none of the files.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from jobs.predict.model import Answerer, open_model
from pipeline.common.atomic import write_atomically
from pipeline.common.cli import console, errors, parse
from pipeline.errors import ConfigError, RejectedSource, UserError
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
    json: Path | None = None
    """File for the answers, all classes of each, and for the reasons of files without one."""
    run: str = ""
    """Run id or URI of the folder of the run that the version must be of. Default: the run that the version names."""
    code: Literal["installed", "carried"] = "installed"
    """Whose code runs: this installation's, or the copy that the version carries. carried runs what the registry holds,
    if the run's folder has its digest; the run is then --run, or must lie where the local stack keeps its runs.
    """
    trust_model_code: bool = False
    """With --code carried: run it though its digest is not that of the run's folder, or not known."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise UserError("videos: give at least one video file")
        if self.top < 1:
            raise ConfigError("top", self.top, "must be at least 1")
        if self.trust_model_code and self.code != "carried":
            raise ConfigError(
                "trust_model_code", True, "no code of the version is run: leave it out, or --code carried"
            )
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise ConfigError("json", str(self.json), "its folder does not exist")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and predict."""
    return predict(parse(PredictArgs, args=argv, description=__doc__))


def predict(args: PredictArgs) -> int:
    """Load the model, print the answers; returns the exit code."""
    if not any(path.exists() for path in args.videos):
        raise UserError(f"no such file: {', '.join(map(str, args.videos))}")
    check_server()
    rows: list[dict[str, Any]] = []
    try:
        with open_model(args.model, run=args.run, code=args.code, trust_code=args.trust_model_code) as answerer:
            for path in args.videos:
                rows.append(_row(answerer, path))
                _print(rows[-1], args.top)
    finally:
        if args.json is not None and rows:
            document = {"model": args.model, "answers": rows}
            write_atomically(args.json, (json.dumps(document, indent=1) + "\n").encode())
    return 1 if any("error" in row for row in rows) else 0


def _row(answerer: Answerer, path: Path) -> dict[str, Any]:
    """One file's answer, or the reason why there is none, as --json holds it."""
    start = time.perf_counter()
    try:
        answer = answerer(path)
    except RejectedSource as error:
        return {"video": str(path), "error": {"reason": error.reason, "detail": error.detail}}
    return {"video": str(path), **answer, "answered_in_s": round(time.perf_counter() - start, 3)}


def _print(row: dict[str, Any], top: int) -> None:
    if "error" in row:
        errors.print(f"{row['video']}: {row['error']['reason']}: {row['error']['detail']}", style="red")
        return
    stages = [f"{stage.removesuffix('_s')} {seconds:.2f} s" for stage, seconds in row.get("stages", {}).items()]
    took = f"answered in {row['answered_in_s']:.2f} s" + (f": {', '.join(stages)}" if stages else "")
    table = Table("class", "probability", title=row["video"], title_justify="left", caption=took)
    table.caption_justify = "left"
    for label, probability in list(zip(row["labels"], row["probabilities"], strict=True))[:top]:
        table.add_row(label, f"{probability:.4f}")
    console.print(table)
    if "note" in row:
        console.print(f"note: {row['note']}")
