"""Average the class probabilities of several runs' nets, as the papers' rows CRN + N-CRN do.

    python -m jobs.ensemble RUN RUN                       # all branches of both; every branch counts as one net
    python -m jobs.ensemble RUN:rgb RUN:rgb               # S-Nets alone
    python -m jobs.ensemble RUN RUN --recipe crn_t3_ucf_bni_ens_flow   # a row of a paper

RUN is a run id or URI, BRANCH one of rgb, flow, diff, diff-online, fused (of a model with one head for several
modalities) or all.

Reads    each run's report and predictions of the split and protocol (written by jobs.evaluate), and for the frames on
         the page the data set, where it can be read.
Writes   OUTPUT/ensembles/NAME/evaluations/SPLIT_PROTOCOL.json, .html, .png and .csv, as jobs.evaluate does; an MLflow
         run NAME. NAME follows from the members.
Restart  the same members give the same report; it is made again where one of them was evaluated again.
Exit     0 finished; 1 failed while running; 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from rich.table import Table

from jobs.cards.describe import describe_run, finish_page
from jobs.compare.evaluated import Evaluated
from jobs.ensemble.members import EvaluatedRun, Protocol, find_ensemble, left_out, load_nets, members_of, open_member
from jobs.evaluate.page import EvaluatedVideos, evaluated_videos
from jobs.evaluate.publish import publish
from jobs.recipes import Ensemble
from jobs.recipes.listing import print_wide
from pipeline.common.cli import console, parse
from pipeline.config.version import code_version
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ConfigError, NotFoundError, StorageError, UserError
from pipeline.evaluation.ensemble import average, check_comparable
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.report import METRICS, EnsembleInput, EvalReport, report_path
from pipeline.storage import Storage, join, open_storage
from pipeline.tracking.journal import read_page
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record

log = logging.getLogger("jobs.ensemble")


@dataclasses.dataclass(frozen=True)
class EnsembleArgs:
    """Average the class probabilities of evaluated runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """RUN or RUN:BRANCH, two nets or more. RUN alone: all its branches, or with --recipe those of the row."""
    split: str = ""
    """Split whose evaluations are averaged; empty: test if the runs were evaluated on it, else val."""
    num_views: int = 0
    """Clips of a video in the evaluations that are averaged; 0: the paper's number."""
    num_crops: Literal[1, 3] = 1
    recipe: str = ""
    """A row of a paper (`python -m jobs.train --list ens`): checks that the runs are those it averages, and prints
    its number.
    """
    output: str = ""
    """Folder of ensembles (s3:// or file://). Default: ``ensembles`` next to the runs."""

    data_uri: str = ""
    """Current location of the data set, if it has moved."""

    def __post_init__(self) -> None:
        if self.num_views < 0:
            raise ConfigError("num_views", self.num_views, "must be 0 (default) or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, average and print."""
    args = parse(EnsembleArgs, args=argv, description=__doc__)
    report, folder, page = ensemble(args)
    print_report(report)
    if args.recipe:
        print_paper(find_ensemble(args.recipe), report)
    console.print(
        f"report   {folder}/{report_path(report.split, report.protocol)}",
        f"to read  {folder}/{report_path(report.split, report.protocol, 'html')}",
        f"page     {page}",
        sep="\n",
    )
    return 0


def ensemble(args: EnsembleArgs) -> tuple[EvalReport, str, RunPage]:
    """Average, or return the report there is. Returns (report, URI of the ensemble's folder, its page)."""
    start = time.perf_counter()
    wanted = find_ensemble(args.recipe) if args.recipe else None
    protocol = Protocol(split=args.split, num_views=args.num_views, num_crops=args.num_crops)
    # Argument order does not matter: neither the folder nor the experiment.
    runs = sorted((open_member(text, protocol, wanted) for text in args.runs), key=lambda run: run.storage.uri)
    members = members_of(runs)
    check_comparable({run.name: run.report for run in runs})
    if wanted is not None and (missing := left_out(runs, wanted)):
        log.warning("%s averages %s too; here it is left out", wanted.name, ", ".join(missing))
    name = _name(args.recipe, members)
    folder = open_storage(join(args.output or join(runs[0].storage.uri.rsplit("/", 1)[0], "ensembles"), name))
    folder.probe(write=True)
    old = _find(folder, runs[0].report, members)
    experiment = runs[0].config.run.experiment
    if old is not None and read_page(folder) is not None:
        log.info("%s was averaged before", name)
        page = _page(folder, experiment, name, old)
        page.put_right("FINISHED")
        finish_page(page, folder)
        return old, folder.uri, page
    predictions = average(load_nets(members, runs))
    report = old or _report(name, args.recipe, runs, members, predictions, start)
    page = _page(folder, experiment, name, report)
    with page.running():
        evaluated = Evaluated(name=folder.uri, folder=folder, report=report, config=None)
        publish(evaluated, predictions, _videos(args.data_uri or runs[0].config.data.uri, report), page)
    describe_run(page, folder)
    return report, folder.uri, page


def _page(folder: Storage, experiment: str, name: str, report: EvalReport) -> RunPage:
    tags = {
        "kind": "ensemble",
        "recipe": report.model,
        "dataset": report.dataset,
        "manifest_digest": report.manifest_digest,
        "run_uri": folder.uri,
        **{f"member_{number}": f"{m.run}:{m.branch}" for number, m in enumerate(report.members, 1)},
    }
    params = {"members": " ".join(m.name for m in report.members)}
    return RunPage(folder, page_record(experiment, name, params, tags))


def _videos(uri: str, report: EvalReport) -> EvaluatedVideos:
    if not uri:
        return EvaluatedVideos(None, {})
    try:
        storage = open_storage(uri)
        manifest = read_manifest(storage)
        if manifest.digest == report.manifest_digest:
            return evaluated_videos(storage, manifest, report.split)
        why = "it is another version of it"
    except (UserError, StorageError) as error:
        why = str(error)
    log.warning(
        "no frames on the page: %s is not the data set that was evaluated (%s); --data-uri says where", uri, why
    )
    return EvaluatedVideos(None, {})


def _name(recipe: str, members: tuple[EnsembleInput, ...]) -> str:
    digest = hashlib.sha256(json.dumps([[m.run, m.branch] for m in members]).encode()).hexdigest()
    return f"{(recipe or 'ensemble').replace('_', '-')}-{digest[:8]}"


def _find(folder: Storage, like: EvalReport, members: tuple[EnsembleInput, ...]) -> EvalReport | None:
    """The report of the same members and the same predictions of theirs, if it is there."""
    path = report_path(like.split, like.protocol)
    try:
        old = EvalReport.from_json(folder.read(path), f"{folder.uri}/{path}")
    except NotFoundError:
        return None
    except UserError as error:
        log.warning("%s: it is written again", error)
        return None
    return old if old.members == members and {m.name for m in members} <= old.scores.keys() else None


def _report(
    name: str,
    recipe: str,
    runs: list[EvaluatedRun],
    members: tuple[EnsembleInput, ...],
    predictions: Predictions,
    start: float,
) -> EvalReport:
    first, reports = runs[0].report, {run.storage.uri: run.report for run in runs}
    modalities = dict.fromkeys(
        m
        for member in members
        for m in (reports[member.run].modalities if member.branch == "fused" else (member.branch,))
    )
    return dataclasses.replace(
        first,
        run_id=name,
        model=recipe or "ensemble",
        modalities=tuple(modalities),
        num_videos=len(predictions.keys),
        num_damaged=predictions.num_damaged,
        scores=predictions.scores(),
        intervals=predictions.intervals(),
        calibration=predictions.calibration(),
        per_class=tuple(predictions.per_class()),
        confusion=tuple(tuple(int(n) for n in row) for row in predictions.confusion()),
        checkpoint="",
        code_version=code_version(),
        seconds=round(time.perf_counter() - start, 2),
        predictions="",
        members=members,
    )


def print_report(report: EvalReport) -> None:
    """Every net's scores and the ensemble's, with the gain over the best net in points."""
    title = (
        f"{report.model} on {report.dataset} {report.split}: mean of {len(report.members)} nets, {report.num_videos}"
        f" videos, {report.num_damaged} damaged"
    )
    table = Table("net", "recipe", f"top-1 ({report.protocol})", "top-5", "mean class accuracy", title=title)
    for member in report.members:
        table.add_row(member.name, member.recipe, *(report.score_text(member.name, name) for name in METRICS))
    table.add_section()
    table.add_row(
        "ensemble",
        report.model if report.model != "ensemble" else "",
        *(report.score_text("fused", name) for name in METRICS),
    )
    gains = [
        100 * (report.scores["fused"][name] - max(report.scores[m.name][name] for m in report.members))
        for name in METRICS
        if all(name in report.scores[stream] for stream in report.scores)
    ]
    table.add_row("over the best net", "", *(f"{gain:+.2f} points" for gain in gains))
    print_wide(console, table)


def print_paper(wanted: Ensemble, report: EvalReport) -> None:
    """The row's printed numbers next to ours."""
    for number in wanted.printed:
        ours = 100 * report.scores["fused"]["top5" if "top-5" in number.what else "top1"]
        console.print(
            f"paper    {wanted.row}, {number.what}: {number.value:.2f} %,"
            f" here {ours:.2f} % ({ours - number.value:+.2f})",
            markup=False,
        )
    for note in (wanted.data, *wanted.notes):
        console.print(f"         {note}", markup=False)
