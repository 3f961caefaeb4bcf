"""The papers' ablations with tiny networks: every variant is trained with several seeds on one budget, tested, and
compared in pairs, with intervals and corrected p values.

    python -m preprocessing.synthetic ~/binding --task binding --train 300 --val 0 --test 100 --min-frames 12 \\
        --max-frames 14
    python -m jobs.preprocess --format ucf101 --source ~/binding/videos --annotations ~/binding \\
        --out file://$HOME/binding-shards --stored.short-side 128 --stored.modalities rgb flow
    (the same with --task parts --train 150 --test 25, as ~/parts)
    python -m jobs.ablations coupling rib --data-uri file://$HOME/binding-shards \\
        --start-uri file://$HOME/parts-shards --seeds 10
    python -m jobs.ablations --data-uri s3://BUCKET/distractors       # the questions that are meant for these classes

    coupling   plain streams, N-CRN, N-CRN with RIB, late and early fusion, CRN        on preprocessing.synthetic's
    rib        no RIB, sRIB, sRIB as wide as RIB, RIB without dilation, RIB            task binding
    strategy   supervised steps a to d, SGD at three rates, T = 10                     task binding
               each after a training of plain streams on single objects, task parts, whose backbones all start from
    mrst       STD, STD with STF, MRST-S, -P, -T                                       task distractors
    real       the variants of coupling, leaving out two sequences at a time           UT-Interaction, split train

Every training is one Ray task on one core; a cluster runs as many at a time as it has cores.

Reads    a data set with the modalities of the question, and a split named test (real: sources named seq01 to seq20).
Writes   OUT/VARIANT-seedN-HASH.json, one per training; OUT/QUESTION.json and OUT/QUESTION.png at the end; all of it
         on one MLflow page.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.exceptions
import tyro

from jobs.ablations.picture import plot
from jobs.ablations.questions import QUESTIONS, Question, QuestionName
from jobs.ablations.report import as_json, show
from jobs.ablations.training import TEST_SPLIT, Training, read_result, result_path, train_and_test
from jobs.ablations.variants import tiny_config
from jobs.cluster.connect import check_resources, connect
from jobs.cluster.errors import explain
from jobs.cluster.occupancy import WaitNotice
from jobs.cluster.submit import run_tasks
from pipeline.common.cli import console, parse
from pipeline.config.base import require
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

    questions: Annotated[tuple[QuestionName, ...], tyro.conf.Positional] = ()
    """What to compare; none: the questions meant for the data set's classes."""
    data_uri: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER."""
    start_uri: str = ""
    """Data set of the trainings that come first, where a question has one (coupling, rib, strategy): task parts."""
    out: str = ""
    """Folder for results; empty: ablations next to the data set."""
    seeds: int = 10
    """Number of seeds (0, 1, ...) of weights, order, augmentation and drawn steps; of every fold, where there are
    folds.
    """
    epochs: int = 0
    """Epochs of every variant; 0: the question's own."""
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
            self.start_uri == "" or self.start_uri.startswith(("s3://", "file://")),
            "start_uri",
            self.start_uri,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(
            self.out == "" or self.out.startswith(("s3://", "file://")),
            "out",
            self.out,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(self.seeds >= 1, "seeds", self.seeds, "must be at least 1")
        require(self.epochs >= 0, "epochs", self.epochs, "must be 0 (the question's own) or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and compare."""
    return ablations(parse(AblationsArgs, args=argv, description=__doc__))


def ablations(args: AblationsArgs) -> int:
    """Train what is missing, then report. Raises UserError before any task has started."""
    if importlib.util.find_spec("scipy") is None:
        raise UserError("scipy is not installed: pip install 'reciprocal[bench]' (make setup does)")
    storage = open_storage(args.data_uri)
    manifest = read_manifest(storage)
    questions = chosen(args, manifest)
    starts = {question.name: plan_starts(args, question) for question in questions}
    trainings = {question.name: plan(args, question, manifest, starts[question.name]) for question in questions}
    for question in questions:
        _check(storage, manifest, question, trainings[question.name])
    out = open_storage(args.out or default_output(args.data_uri).removesuffix("runs") + "ablations")
    out.probe(write=True)
    connect()
    check_resources(1, 1.0, False)
    run_all({t.path: t for found in starts.values() for t in found}, out)
    by_path = run_all({t.path: t for found in trainings.values() for t in found}, out)
    summaries = {}
    for question in questions:
        results: dict[str, list[dict[str, Any]]] = {}
        for training in trainings[question.name]:
            # The file may be of another question that trains the same network under another name.
            results.setdefault(training.variant, []).append({**by_path[training.path], "variant": training.variant})
        # Any data set may be given to a question: chance is that of its classes.
        asked = dataclasses.replace(question, classes=tuple(manifest.classes))
        summaries[question.name] = as_json(asked, results)
        show(console, summaries[question.name])
    _publish(args, summaries, manifest, out)
    return 0


def chosen(args: AblationsArgs, manifest: Manifest) -> list[Question]:
    """The questions that were asked for, or that the data set is meant for.

    Raises:
        ConfigError: none is meant for it.
    """
    if args.questions:
        return [QUESTIONS[name] for name in dict.fromkeys(args.questions)]
    found = [question for question in QUESTIONS.values() if question.classes == tuple(manifest.classes)]
    meant = "; ".join(f"{question.name}: {question.data}" for question in QUESTIONS.values())
    fix = f"{args.data_uri} is not a data set that a question is meant for: name one, or make such a set ({meant})"
    require(bool(found), "questions", args.questions, fix)
    return found


def plan_starts(args: AblationsArgs, question: Question) -> list[Training]:
    """The trainings that come first, one for each seed; none where the question has no start.

    Raises:
        ConfigError: no data set is named for them, or one of other classes.
    """
    if (start := question.start) is None:
        return []
    fix = f"{question.name} trains each stream alone first: make such a set ({start.data}) and name it here"
    require(bool(args.start_uri), "start_uri", args.start_uri, fix)
    storage = open_storage(args.start_uri)
    manifest = read_manifest(storage)
    require(tuple(manifest.classes) == start.classes, "start_uri", args.start_uri, f"has other classes; {fix}")
    found = []
    for seed in range(args.seeds):
        config = tiny_config(start.variant, start.budget, args.start_uri, seed)
        path = result_path(start.variant.name, config, manifest)
        found.append(Training(start.variant.name, config, path, keep=path.replace(".json", ".safetensors")))
    check_data(
        storage,
        manifest,
        data=found[0].config.data,
        clip=found[0].config.clip,
        modalities=start.variant.model.modalities,
        world_size=1,
    )
    return found


def plan(
    args: AblationsArgs, question: Question, manifest: Manifest, starts: Sequence[Training] = ()
) -> list[Training]:
    """All trainings of a question, seed by seed and fold by fold, so that an interrupted run has complete ones.

    Args:
        args: data set, seeds and epochs.
        question: which.
        manifest: of the data set.
        starts: of ``plan_starts``.
    """
    found = []
    for seed in range(args.seeds):
        start = starts[seed].keep if starts else ""
        for fold in question.folds or (None,):
            for variant in question.variants:
                config = tiny_config(
                    variant,
                    question.budget,
                    args.data_uri,
                    seed,
                    epochs=args.epochs,
                    fold=fold,
                    pattern=question.fold_pattern,
                )
                path = result_path(variant.name, config, manifest, start)
                found.append(Training(variant.name, config, path, fold.name if fold else "", start))
    return found


def _check(storage: Storage, manifest: Manifest, question: Question, trainings: Sequence[Training]) -> None:
    if not question.folds and not manifest.split_sizes().get(TEST_SPLIT):
        raise ManifestError(f"{storage.uri}: split {TEST_SPLIT} is missing or empty; the variants are compared on it")
    seen = set()
    for training in trainings:
        config = training.config
        if (key := (config.model.modalities, config.data.val_sources, config.clip)) in seen:
            continue
        seen.add(key)
        plan = check_data(
            storage, manifest, data=config.data, clip=config.clip, modalities=config.model.modalities, world_size=1
        )
        for line in plan.warnings:
            log.warning("%s: %s", training.title, line)


def run_all(trainings: Mapping[str, Training], out: Storage) -> dict[str, dict[str, Any]]:
    """Results by path: stored ones, and those of new tasks.

    Raises:
        ReciprocalError: a training failed; the others' results are kept.
    """
    task = ray.remote(num_cpus=1, max_retries=2)(train_and_test)
    results = {path: found for path in trainings if (found := read_result(out, path))}
    todo = [training for path, training in trainings.items() if path not in results]
    start_s = time.perf_counter()
    log.info("%d trainings are stored already, %d to do", len(results), len(todo))
    # Trainings last minutes: killed, not asked to stop, when another has failed.
    ended = run_tasks(todo, lambda t: task.remote(t, out.uri), waiting=WaitNotice(), force_cancel=True)
    with contextlib.closing(ended):
        for count, (training, result) in enumerate(ended, start=1):
            if isinstance(result, ray.exceptions.RayError):
                found = explain(result)
                kind = UserError if isinstance(found, UserError) else ReciprocalError
                raise kind(f"{training.title}: {found}; fix it and run the same command again to continue") from result
            results[training.path] = result
            scores = " ".join(f"{stream} {value:.3f}" for stream, value in result["top1"].items())
            log.info(
                "%d of %d, %s: %s (training clips %.3f, %.0f s); %.0f s so far",
                count,
                len(todo),
                training.title,
                scores,
                result["train_top1"],
                result["seconds"],
                time.perf_counter() - start_s,
            )
    return results


def _publish(args: AblationsArgs, summaries: Mapping[str, dict[str, Any]], manifest: Manifest, out: Storage) -> None:
    facts = {
        "data": args.data_uri,
        "manifest_digest": manifest.digest,
        "num_test": manifest.split_sizes().get(TEST_SPLIT, 0),
        "num_train": manifest.split_sizes()["train"],
        "classes": list(manifest.classes),
        "seeds": args.seeds,
        "epochs": args.epochs,
        "code": code_version(),
    }
    # The same command finds its page again; other arguments or data make another.
    run_id = (
        f"ablations-{hashlib.sha256(json.dumps([dataclasses.asdict(args), manifest.digest]).encode()).hexdigest()[:8]}"
    )
    tags = {"kind": "ablations", "manifest_digest": manifest.digest, "dataset": manifest.dataset}
    record = page_record(args.experiment, run_id, dataclasses.asdict(args), tags)
    page = RunPage(open_storage(join(out.uri, "pages", run_id)), record)
    with page.running(), tempfile.TemporaryDirectory() as folder:
        for name, summary in summaries.items():
            picture, text = Path(folder) / f"{name}.png", Path(folder) / f"{name}.json"
            plot(summary, picture)
            text.write_text(json.dumps(facts | summary, indent=1) + "\n")
            for file in (picture, text):
                out.write_file(file.name, file)
                page.log_file(file, file.name)
            page.log_scores(
                {
                    f"{name}/{score['variant'].replace('@', '_at_')}/{score['stream']}_top1_{what}": score[what]
                    for score in summary["scores"]
                    for what in ("mean", "sd", "low", "high", "learned")
                    if score[what] is not None
                }
            )
    for name in summaries:
        console.print(f"{name:9}{join(out.uri, f'{name}.json')}", join(out.uri, f"{name}.png"), sep="\n         ")
    console.print(f"page     {page}", markup=False)
