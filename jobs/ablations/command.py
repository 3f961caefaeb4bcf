"""The papers' ablations with tiny networks: every variant is trained with several seeds on the same budget, tested, and
compared with error bars.

    python -m preprocessing.synthetic ~/motions --motions 4 --train 24 --val 0 --test 20 --min-frames 12 --max-frames 14
    python -m jobs.preprocess --format ucf101 --source ~/motions/videos --annotations ~/motions \\
        --out file://$HOME/motions-shards --stored.short-side 64 --stored.modalities rgb flow
    python -m jobs.ablations --data-uri file://$HOME/motions-shards
    python -m jobs.ablations --data-uri s3://BUCKET/motions --only coupling rib --seeds 5

Every training is one Ray task on one core; a cluster runs as many at a time as it has cores.

Reads    a data set with rgb and flow, and a split named test.
Writes   OUT/VARIANT-seedN-HASH.json, one per training; OUT/ablations.json and OUT/ablations.png at the end; all of
         it on one MLflow page.
Restart  trainings whose file is there are not repeated.
Exit     0 all trained, whatever came out; 1 failed while running; 2 refused before any work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ray
import ray.exceptions

from jobs.ablations.report import as_json, plot, show
from jobs.ablations.training import TEST_SPLIT, read_result, result_path, train_and_test
from jobs.ablations.variants import GROUPS, VARIANTS, Group, tiny_config
from jobs.cluster.connect import check_resources, connect
from jobs.cluster.errors import explain
from jobs.cluster.occupancy import WaitNotice
from jobs.cluster.submit import run_tasks
from pipeline.common.cli import console, parse
from pipeline.config.base import require
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.data.preflight import check_data
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ManifestError, ReciprocalError, UserError
from pipeline.runs.folder import default_output
from pipeline.storage import Storage, join, open_storage
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record

log = logging.getLogger("jobs.ablations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationsArgs:
    """Train and compare the papers' variants."""

    data_uri: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER."""
    out: str = ""
    """Folder for results; empty: ablations next to the data set."""
    only: tuple[Literal["coupling", "fusion", "rib", "strategy", "mrst"], ...] = ()
    """Comparisons to make; none: all."""
    seeds: int = 3
    """Number of seeds (0, 1, ...) of weights, order, augmentation and drawn steps."""
    epochs: int = 32
    """Epochs of CRN's variants; MRST-Net's get 1.5 times as many."""
    experiment: str = "ablations"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        require(
            self.data_uri.startswith(("s3://", "file://")),
            "data_uri",
            self.data_uri,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(
            self.out == "" or self.out.startswith(("s3://", "file://")),
            "out",
            self.out,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        for name in ("seeds", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")


@dataclasses.dataclass(frozen=True)
class Training:
    """One task."""

    name: str
    config: TrainConfig
    path: str


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and compare."""
    return ablations(parse(AblationsArgs, args=argv, description=__doc__))


def ablations(args: AblationsArgs) -> int:
    """Train what is missing, then report. Raises UserError before any task has started."""
    if importlib.util.find_spec("scipy") is None:
        raise UserError("scipy is not installed: pip install 'reciprocal[bench]' (make setup does)")
    groups = [GROUPS[name] for name in args.only] or list(GROUPS.values())
    storage = open_storage(args.data_uri)
    manifest = read_manifest(storage)
    trainings = plan(args, groups, manifest)
    _check(storage, manifest, trainings)
    out = open_storage(args.out or default_output(args.data_uri).removesuffix("runs") + "ablations")
    out.probe(write=True)
    connect()
    check_resources(1, 1.0, False)
    results = run_all(trainings, out)
    in_order = {name: sorted(taken, key=lambda result: result["seed"]) for name, taken in results.items()}
    show(console, groups, in_order)
    _publish(args, groups, in_order, manifest, out)
    return 0


def plan(args: AblationsArgs, groups: Sequence[Group], manifest: Manifest) -> list[Training]:
    """All trainings, each once, seed by seed, so that an interrupted run has complete seeds."""
    names = dict.fromkeys(name for group in groups for name in group.variants)
    found = []
    for seed in range(args.seeds):
        for name in names:
            config = tiny_config(VARIANTS[name], args.data_uri, seed, args.epochs)
            found.append(Training(name, config, result_path(name, config, manifest)))
    return found


def _check(storage: Storage, manifest: Manifest, trainings: Sequence[Training]) -> None:
    if not manifest.split_sizes().get(TEST_SPLIT):
        raise ManifestError(f"{storage.uri}: split {TEST_SPLIT} is missing or empty; the variants are compared on it")
    for modalities in dict.fromkeys(training.config.model.modalities for training in trainings):
        config = next(t.config for t in trainings if t.config.model.modalities == modalities)
        plan = check_data(storage, manifest, data=config.data, clip=config.clip, modalities=modalities, world_size=1)
        for line in plan.warnings:
            log.warning("%s: %s", " + ".join(modalities), line)


def run_all(trainings: Sequence[Training], out: Storage) -> dict[str, list[dict[str, Any]]]:
    """Results per variant: stored ones, and those of new tasks.

    Raises:
        ReciprocalError: a training failed; the others' results are kept.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    task = ray.remote(num_cpus=1, max_retries=2)(train_and_test)
    todo: list[Training] = []
    for training in trainings:
        if found := read_result(out, training.path):
            results.setdefault(training.name, []).append(found)
        else:
            todo.append(training)
    start_s = time.perf_counter()
    log.info("%d trainings are stored already, %d to do", len(trainings) - len(todo), len(todo))
    # Trainings last minutes: killed, not asked to stop, when another has failed.
    ended = run_tasks(todo, lambda t: task.remote(t.name, t.config, out.uri), waiting=WaitNotice(), force_cancel=True)
    with contextlib.closing(ended):
        for count, (training, result) in enumerate(ended, start=1):
            if isinstance(result, ray.exceptions.RayError):
                found = explain(result)
                kind = UserError if isinstance(found, UserError) else ReciprocalError
                raise kind(
                    f"{training.name}, seed {training.config.run.seed}: {found}; fix it and run the same command again"
                    " to continue"
                ) from result
            results.setdefault(training.name, []).append(result)
            scores = " ".join(f"{stream} {value:.3f}" for stream, value in result["top1"].items())
            log.info(
                "%d of %d, %s seed %d: %s (training clips %.3f, %.0f s); %.0f s so far",
                count,
                len(todo),
                training.name,
                result["seed"],
                scores,
                result["train_top1"],
                result["seconds"],
                time.perf_counter() - start_s,
            )
    return results


def _publish(
    args: AblationsArgs,
    groups: Sequence[Group],
    results: dict[str, list[dict[str, Any]]],
    manifest: Manifest,
    out: Storage,
) -> None:
    facts = {
        "data": args.data_uri,
        "manifest_digest": manifest.digest,
        "num_test": manifest.split_sizes()[TEST_SPLIT],
        "num_train": manifest.split_sizes()["train"],
        "classes": list(manifest.classes),
        "seeds": args.seeds,
        "epochs": args.epochs,
        "code": code_version(),
    }
    summary = facts | as_json(groups, results)
    # The same command finds its page again; other arguments or data make another.
    run_id = (
        f"ablations-{hashlib.sha256(json.dumps([dataclasses.asdict(args), manifest.digest]).encode()).hexdigest()[:8]}"
    )
    tags = {"kind": "ablations", "manifest_digest": manifest.digest, "dataset": manifest.dataset}
    record = page_record(args.experiment, run_id, dataclasses.asdict(args), tags)
    page = RunPage(open_storage(join(out.uri, "pages", run_id)), record)
    with page.running(), tempfile.TemporaryDirectory() as folder:
        picture, text = Path(folder) / "ablations.png", Path(folder) / "ablations.json"
        plot(groups, results, 1 / len(manifest.classes), picture)
        text.write_text(json.dumps(summary, indent=1) + "\n")
        for file in (picture, text):
            out.write_file(file.name, file)
            page.log_file(file, file.name)
        page.log_scores(
            {
                f"{name}/{stream}_top1_{what}": value
                for name, streams in summary["summary"].items()
                for stream, pair in streams.items()
                for what, value in pair.items()
                if value is not None
            }
        )
    console.print(
        f"result   {join(out.uri, 'ablations.json')}",
        f"picture  {join(out.uri, 'ablations.png')}",
        f"page     {page}",
        sep="\n",
    )
