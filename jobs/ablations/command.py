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

    coupling   task binding: plain streams, N-CRN, N-CRN with RIB, late and early fusion, CRN
    rib        task binding: no RIB, sRIB, sRIB as wide as RIB, RIB without dilation, RIB
    strategy   task binding: supervised steps a to d, SGD at three rates, T = 10
    mrst       task distractors: STD, STD with STF, MRST-S, -P, -T
    real       UT-Interaction, split train: the variants of coupling, leaving out two sequences at a time

The first three start from the backbones of a training of plain streams on single objects (task parts).
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
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from jobs.ablations.picture import plot
from jobs.ablations.planning import AblationsArgs, check, chosen, plan, plan_starts
from jobs.ablations.report import as_json, show
from jobs.ablations.training import TEST_SPLIT, Training, read_result, train_and_test
from jobs.cluster.connect import check_resources, connect
from jobs.cluster.errors import explain
from jobs.cluster.occupancy import WaitNotice
from jobs.cluster.submit import run_tasks
from pipeline.common.cli import console, parse
from pipeline.config.version import code_version
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ReciprocalError, UserError
from pipeline.runs.folder import default_output
from pipeline.storage import Storage, join, open_storage
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record

log = logging.getLogger("jobs.ablations")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and compare."""
    return ablations(parse(AblationsArgs, args=argv, description=__doc__))


def ablations(args: AblationsArgs) -> int:
    """Train what is missing, then report. Raises UserError before any task has started."""
    storage = open_storage(args.data_uri)
    manifest = read_manifest(storage)
    questions = chosen(args, manifest)
    starts = {question.name: plan_starts(args, question) for question in questions}
    trainings = {question.name: plan(args, question, manifest, starts[question.name]) for question in questions}
    for question in questions:
        check(storage, manifest, question, trainings[question.name])
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


def run_all(trainings: Mapping[str, Training], out: Storage) -> dict[str, dict[str, Any]]:
    """Results by path: stored ones, and those of new tasks.

    Raises:
        ReciprocalError: a training failed; the others' results are kept.
    """
    task = ray.remote(num_cpus=1, max_retries=2)(train_and_test)
    results = {path: found for path in trainings if (found := read_result(out, path))}
    todo = [training for path, training in trainings.items() if path not in results]
    start_s = time.perf_counter()
    if trainings:
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
