"""End to end on this machine: from synthetic videos to registered models, on the real servers of the local stack.

    python -m jobs.demo                # or: make demo
    python -m jobs.demo --storage file # the same with files in place of S3, and no server but Ray's

Reads    nothing.
Writes   videos below the state folder; shards, runs and registered models on the local stack.
Restart  what is committed is reused: videos, shards, finished runs, evaluations, versions.
Exit     0 finished and every model reached its mark; 1 otherwise.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.table import Table

from infra.local import addresses, print_lines, up
from jobs.cluster.errors import explain
from jobs.evaluate.command import EvaluateArgs, evaluate
from jobs.predict.command import PredictArgs, predict
from jobs.preprocess.command import PreprocessConfig, preprocess
from jobs.promote.command import PromoteArgs, promote
from jobs.recipes import find_recipe
from jobs.train.command import train
from jobs.train.prepare import prepare
from pipeline.common.cli import console, parse, run_main
from pipeline.config.preprocess import StoredConfig
from pipeline.config.stack import Stack, home, state_folder
from pipeline.config.train import TrainConfig
from pipeline.errors import ReciprocalError
from pipeline.evaluation.report import EvalReport
from pipeline.runs.folder import RESULT, open_run, read_result
from pipeline.storage import join, open_storage
from pipeline.tracking.registry import versions
from pipeline.tracking.runs import address
from preprocessing.synthetic.generate import SyntheticConfig, generate

RECIPES = ("crn_demo", "rgb_demo", "flow_demo", "mrst_demo")
MODELS = {"crn_demo": "synthetic-crn", "mrst_demo": "synthetic-mrst"}
MARKS = {
    "crn_demo": 0.90,
    "mrst_demo": 0.80,
}  # top-1 on the test split; chance is 1/6, appearance alone 1/3, motion alone 1/2


@dataclasses.dataclass(frozen=True)
class DemoArgs:
    """Run the demo."""

    storage: Literal["s3", "file"] = "s3"
    """s3: the local stack. file: files below the state folder, MLflow as a database file, a private Ray."""
    seed: int = 0
    """Of the videos and of every training run."""


@dataclasses.dataclass
class Row:
    """One line of the closing table."""

    report: EvalReport
    train_s: float
    reused: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return demo(parse(DemoArgs, args=argv, description=__doc__))


def demo(args: DemoArgs) -> int:
    """The pipeline, step by step; returns the exit code."""
    start = time.perf_counter()
    stack = None
    if args.storage == "file":
        os.environ["RECIPROCAL_STACK"] = "off"
        base = f"file://{home()}/demo-files"
    else:
        with _step("python -m infra.local up"):
            stack = up()
        base = f"s3://{stack.bucket}"
    videos = _videos(args.seed)
    data_uri = join(base, f"synthetic-{args.seed}")
    with _step(
        f"python -m jobs.preprocess --format ucf101 --source {videos / 'videos'} --annotations {videos} --out"
        f" {data_uri} ..."
    ):
        preprocess(
            PreprocessConfig(
                format="ucf101",
                source=str(videos / "videos"),
                annotations=str(videos),
                out=data_uri,
                name="synthetic",
                samples_per_shard=32,
                stored=StoredConfig(short_side=64, modalities=("rgb", "flow")),
            )
        )
    rows = [_train_and_test(name, data_uri, args.seed) for name in RECIPES]
    by_name = {row.report.model: row for row in rows}
    for recipe, model in MODELS.items():
        run_uri = _run_uri(recipe, data_uri, args.seed)
        with _step(f"python -m jobs.promote {run_uri} --name {model}"):
            promote(PromoteArgs(run_uri, model))
    clip = sorted((videos / "videos").glob("*/*test*.mp4"))[0]
    with _step(f"python -m jobs.predict models:/{MODELS['crn_demo']}@champion {clip}"):
        predict(PredictArgs(f"models:/{MODELS['crn_demo']}@champion", (clip,)))
    _print_end(rows, stack, base)
    console.print(f"demo: {time.perf_counter() - start:.0f} s")
    return 0 if _reached(by_name) else 1


def _videos(seed: int) -> Path:
    folder = state_folder("demo") / f"synthetic-{seed}"
    config = SyntheticConfig(
        out=folder, seed=seed, appearances=2, train=36, val=3, test=15, min_frames=13, max_frames=16
    )
    with _step(
        f"python -m preprocessing.synthetic {folder} --seed {seed} --appearances 2 --train 36 --val 3 --test 15"
        " --min-frames 13 --max-frames 16"
    ):
        if (folder / "testlist01.txt").exists():  # written last
            console.print("the videos are there already")
        else:
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted demo left
            generate(config)
    return folder


def _config(recipe: str, data_uri: str, seed: int) -> TrainConfig:
    config = find_recipe(recipe)
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, uri=data_uri), run=dataclasses.replace(config.run, seed=seed)
    )


def _run_uri(recipe: str, data_uri: str, seed: int) -> str:
    config = prepare(_config(recipe, data_uri, seed)).config
    return join(config.run.output, config.run.run_id)


def _train_and_test(recipe: str, data_uri: str, seed: int) -> Row:
    config = _config(recipe, data_uri, seed)
    run_uri = _run_uri(recipe, data_uri, seed)
    reused = open_storage(run_uri).exists(RESULT)
    with _step(f"python -m jobs.train {recipe} --data.uri {data_uri} --run.seed {seed}"):
        code = train(config)
    if code:
        raise ReciprocalError(f"training {recipe} ended with code {code}")
    seconds = read_result(open_run(run_uri))["seconds"]
    with _step(f"python -m jobs.evaluate {run_uri} --split test"):
        report, _, _ = evaluate(EvaluateArgs(run_uri))
    return Row(report=report, train_s=seconds, reused=reused)


def _print_end(rows: list[Row], stack: Stack | None, base: str) -> None:
    table = Table(
        "model",
        "modality",
        "test top-1",
        "views",
        "train s",
        title=(
            f"{rows[0].report.dataset}: {rows[0].report.num_videos} test videos, chance"
            f" {1 / len(rows[0].report.classes):.3f}"
        ),
        caption="* trained by an earlier run" if any(row.reused for row in rows) else None,
    )
    for row in rows:
        report = row.report
        streams = (
            [(branch, report.scores[branch]["top1"]) for branch in report.branches] if len(report.branches) > 1 else []
        )
        table.add_row(
            report.model,
            "+".join(report.modalities),
            f"{report.top1:.4f}",
            report.protocol,
            f"{row.train_s:.0f}{'*' if row.reused else ''}",
        )
        for modality, top1 in streams:
            table.add_row("", f"{modality} branch", f"{top1:.4f}", "", "")
    console.print(table)
    registry = Table("registered model", "version", "aliases", "test top-1", title="MLflow registry")
    for model in MODELS.values():
        for version in versions(model):
            registry.add_row(model, version.version, ", ".join(version.aliases), version.tags.get("top1", ""))
    console.print(registry)
    print_lines(addresses(stack) if stack else [f"MLflow         {address()}", f"files          {base}"])


def _reached(rows: dict[str, Row]) -> bool:
    good = True
    for name, mark in MARKS.items():
        if rows[name].report.top1 < mark:
            console.print(f"{name} reached {rows[name].report.top1:.3f}, less than {mark}")
            good = False
    best_single = max(rows["rgb_demo"].report.top1, rows["flow_demo"].report.top1)
    if rows["crn_demo"].report.top1 <= best_single:
        console.print(f"crn_demo does not beat the better single stream ({best_single:.3f})")
        good = False
    return good


@contextmanager
def _step(command: str) -> Iterator[None]:
    console.rule(align="left", characters="-")
    console.print(f"$ {shlex.join(shlex.split(command))}", markup=False, style="bold")
    start = time.perf_counter()
    yield
    console.print(f"  {time.perf_counter() - start:.1f} s", style="dim")


if __name__ == "__main__":
    run_main(main, explain=explain)
