"""Evaluate a finished run on a split: views averaged, every video exactly once over all workers.

    python -m jobs.evaluate RUN                           # RUN: run id or s3://.../runs/RUN_ID; split test, else val
    python -m jobs.evaluate RUN --split val --num-views 10 --num-crops 3 --num-workers 4
    python -m jobs.evaluate RUN --checkpoint best         # another one than the last: beside its files

Reads    RUN's final checkpoint (or --checkpoint) and the data set it was trained on (another manifest is refused).
Writes   RUN/evaluations/SPLIT_PROTOCOL.json, .html (all of it, for reading), .png (confusion matrix), .csv (scores of
         every class) and .npz (probabilities of every video, for jobs.ensemble), below RUN/CHECKPOINT for another
         checkpoint than the last; all but the .npz, and the metrics, to the run's MLflow page, or to its journal where
         MLflow does not answer (`python -m jobs.sync RUN` sends them).
Exit     0 finished (also if the report existed); 1 failed while running; 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import ray
import tyro
from rich.table import Table

from jobs.cards.describe import finish_page
from jobs.cluster.connect import check_resources, connect, gpus_for, wants_gpu
from jobs.compare.evaluated import Evaluated
from jobs.evaluate.again import evaluate_command
from jobs.evaluate.page import evaluated_videos
from jobs.evaluate.publish import publish
from jobs.evaluate.worker import evaluate_rank
from jobs.recipes import default_views
from jobs.recipes.listing import print_wide
from jobs.train.page import data_input, open_page
from pipeline.common.cli import console, parse
from pipeline.common.words import counted
from pipeline.config.base import require
from pipeline.config.version import code_version
from pipeline.data.sampling.short import short_note
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import Part, join_parts
from pipeline.evaluation.predictions import write_predictions
from pipeline.evaluation.report import (
    METRICS,
    SPLITS,
    STREAM_NAMES,
    EvalReport,
    protocol_name,
    read_report,
    report_path,
)
from pipeline.runs.folder import check_same_data, find_checkpoint, open_run, read_result, read_run
from pipeline.storage import join, open_storage
from pipeline.tracking.page import RunPage

log = logging.getLogger("jobs.evaluate")


@dataclasses.dataclass(frozen=True)
class EvaluateArgs:
    """Evaluate a finished run."""

    run: Annotated[str, tyro.conf.Positional]
    """Run id (on the local stack) or URI of the run's folder."""
    split: str = ""
    """Split to evaluate on; empty: test if the data set has one, else val."""
    num_views: int = 0
    """Clips of a video, uniformly spaced; 0: the paper's number (4 for CRN, 20 for MRST-Net), 1 for its 2D twin."""
    num_crops: Literal[1, 3] = 1
    """Crops of each clip: the centre, or three along the long side."""
    num_workers: int = 0
    """Workers that share the videos; 0: as many as the run was trained with."""
    batch_size: int = 0
    """Videos of all workers in a step; 0: a number whose clips fit where training's did."""
    checkpoint: str = "last"
    """last: the run's result; best: the one that run.keep_best kept; or the name of a checkpoint's folder. Ensembles
    and promotions use the last one.
    """
    data_uri: str = ""
    """Current location of the data set, if it has moved."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    again: bool = False
    """Evaluate even if this split and protocol were evaluated before."""

    def __post_init__(self) -> None:
        for name in ("num_views", "num_workers", "batch_size"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "must be 0 (default) or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and evaluate."""
    report, folder, page = evaluate(parse(EvaluateArgs, args=argv, description=__doc__))
    print_report(report)
    console.print(
        f"weights  {report.checkpoint}",
        f"report   {folder}/{report_path(report.split, report.protocol)}",
        f"to read  {folder}/{report_path(report.split, report.protocol, 'html')}",
        f"page     {page}",
        sep="\n",
    )
    return 0


def evaluate(args: EvaluateArgs) -> tuple[EvalReport, str, RunPage]:
    """Evaluate, or return the report there is. Returns (report, URI of the folder it is in, the run's page)."""
    run = open_run(args.run)
    run.probe(write=True)
    record, result = read_run(run), read_result(run)
    config = record.train_config()
    checkpoint = find_checkpoint(run, args.checkpoint, result["checkpoint"])
    last = checkpoint == result["checkpoint"]
    folder = run if last else open_storage(join(run.uri, checkpoint))
    uri = args.data_uri or config.data.uri
    manifest = read_manifest(open_storage(uri))
    check_same_data(record, manifest, uri)
    views = args.num_views or default_views(config)
    protocol, rows = protocol_name(views, args.num_crops), views * args.num_crops
    args = dataclasses.replace(args, split=args.split or default_split(manifest))
    path = report_path(args.split, protocol)
    asked = {"num_views": args.num_views, "num_crops": args.num_crops}
    if folder.exists(path) and not args.again:
        report = read_report(folder, args.split, protocol, evaluate_command(args.run, args.split, again=True, **asked))
        if report.checkpoint == checkpoint:
            log.info("%s was evaluated before", path)
            page = open_page(run)
            finish_page(page, run)
            return report, folder.uri, page
    videos = evaluated_videos(open_storage(uri), manifest, args.split)
    samples = [pick.sample for pick in videos.picks.values()]
    frames = np.array([s.num_frames for s in samples])
    if note := short_note(frames, config.clip, config.model.modalities, args.split, manifest.parameters):
        log.warning("%s", note)
    connect()
    gpu = wants_gpu(args.use_gpu)
    wanted = args.num_workers or config.run.num_workers
    workers = gpus_for(args.use_gpu, gpu, wanted)
    if workers < wanted:
        log.info(
            "the cluster has %s for %s: %s",
            counted(workers, "GPU"),
            counted(wanted, "worker"),
            "the videos are shared by as many workers as GPUs",
        )
    check_resources(workers, config.run.cpus_per_worker, gpu)
    batch = args.batch_size or max(workers, config.data.batch_size // rows // workers * workers)
    data = dataclasses.replace(config.data, uri=uri, batch_size=batch)
    start = time.perf_counter()
    task = ray.remote(num_cpus=config.run.cpus_per_worker, num_gpus=1 if gpu else 0, max_retries=2)(evaluate_rank)
    parts: list[Part] = ray.get(
        [
            task.remote(
                run.uri,
                checkpoint,
                dataclasses.replace(config, data=data),
                args.split,
                views,
                args.num_crops,
                rank,
                workers,
                gpu,
            )
            for rank in range(workers)
        ]
    )
    predictions = join_parts(parts, {s.key: s.label for s in samples})
    report = EvalReport(
        run_id=config.run.run_id,
        model=config.recipe,
        modalities=config.model.modalities,
        dataset=manifest.dataset,
        manifest_digest=manifest.digest,
        split=args.split,
        protocol=protocol,
        num_videos=len(predictions.keys),
        num_damaged=predictions.num_damaged,
        classes=manifest.classes,
        scores=predictions.scores(),
        intervals=predictions.intervals(),
        calibration=predictions.calibration(),
        per_class=tuple(predictions.per_class()),
        confusion=tuple(tuple(int(n) for n in row) for row in predictions.confusion()),
        checkpoint=checkpoint,
        code_version=code_version(),
        seconds=round(time.perf_counter() - start, 2),
    )
    with tempfile.TemporaryDirectory() as local:
        file = Path(local) / "predictions.npz"
        report = dataclasses.replace(report, predictions=write_predictions(predictions, file))
        folder.write_file(report_path(args.split, protocol, "npz"), file)
    page = open_page(run)
    page.log_data(data_input(manifest, uri, args.split, "evaluation"))
    evaluated = Evaluated(name=args.run, folder=folder, report=report, config=config)
    publish(evaluated, predictions, videos, page, "" if last else checkpoint)
    finish_page(page, run)
    return report, folder.uri, page


def default_split(manifest: Manifest) -> str:
    """test if the data set has it, else val.

    Raises:
        ConfigError: it has neither.
    """
    sizes = manifest.split_sizes()
    found = next((split for split in SPLITS if sizes.get(split)), "")
    require(bool(found), "split", "", f"the data set has no {' and no '.join(SPLITS)}: name one of {', '.join(sizes)}")
    if found != SPLITS[0]:
        log.info("the data set has no split %s: evaluating on %s", SPLITS[0], found)
    return found


def print_report(report: EvalReport) -> None:
    """Scores per stream with their intervals as a table."""
    table = Table(
        "stream",
        f"top-1 ({report.protocol})",
        "top-5",
        "mean class accuracy",
        title=(
            f"{report.model} on {report.dataset} {report.split}: {counted(report.num_videos, 'video')},"
            f" {report.num_damaged} damaged, {report.seconds:.0f} s"
        ),
    )
    for stream in dict.fromkeys((*report.branches, "fused")):
        table.add_row(STREAM_NAMES[stream], *(report.score_text(stream, name) for name in METRICS))
    print_wide(console, table)
    if report.intervals:
        console.print(f"in brackets: 95 % bootstrap intervals over the {report.num_videos} videos", style="dim")
    if report.calibration:
        console.print(f"expected calibration error of the fused prediction: {report.calibration.ece:.4f}", style="dim")
