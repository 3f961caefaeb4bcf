"""Register a finished run's model and, if its evaluation beats the current version's, give it the alias.

    python -m jobs.promote RUN --name synthetic-crn              # alias champion
    python -m jobs.promote RUN --name synthetic-crn --min-gain 0.01
    python -m jobs.promote --rollback synthetic-crn              # the alias goes back to the version that had it before
    python -m jobs.promote --history synthetic-crn               # who held it, when and why

Reads    RUN's final checkpoint and its report of --split (written by jobs.evaluate).
Writes   a version of the registered model, once per checkpoint and report, and the digests of its files into RUN's
         folder; the alias, if it is earned, and the move to the alias's history. A version that does not earn champion
         becomes candidate.
Exit     0 registered and promoted (or it has the alias already), or rolled back; 3 registered, promotion refused, and
         why; 1 failed while running; 2 refused before any work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

import pipeline
import preprocessing
from jobs.cards.describe import describe_registered, finish_page
from jobs.evaluate.again import evaluate_command
from jobs.promote.describe import describe, example_video
from jobs.promote.history import print_history, rollback
from jobs.recipes import default_views
from jobs.train.page import open_page, tracking_run_of
from pipeline.common.cli import console, parse
from pipeline.common.digest import file_sha256
from pipeline.config.base import require
from pipeline.errors import NotFoundError, UserError
from pipeline.evaluation.report import EvalReport, compare, evaluated_split, protocol_name, read_report
from pipeline.runs.folder import fetched_checkpoint, open_run, read_result, read_run
from pipeline.runs.registered import Registration, write_registration
from pipeline.serving.card import CARD, WEIGHTS
from pipeline.serving.predictor import REQUIREMENTS, pack
from pipeline.storage import Storage, open_storage
from pipeline.tracking.aliases import drop_alias, move_alias
from pipeline.tracking.entries import DataInput
from pipeline.tracking.registry import Version, aliased_version, facts_of, register, versions_of_run
from pipeline.tracking.runs import check_server
from pipeline.training.checkpoint import read_state

log = logging.getLogger("jobs.promote")
CHAMPION, CANDIDATE = "champion", "candidate"


@dataclasses.dataclass(frozen=True)
class PromoteArgs:
    """Register a run's model and compare it with the version that has the alias."""

    run: Annotated[str, tyro.conf.Positional] = ""
    """Run id (on the local stack) or URI of the run's folder."""
    name: str = ""
    """Registered model."""
    alias: str = CHAMPION
    split: str = ""
    """Split whose report decides; empty: test if the run was evaluated on it, else val."""
    num_views: int = 0
    """Protocol that decides; 0: the paper's number of views."""
    num_crops: Literal[1, 3] = 1
    """Crops of each view, of the same protocol; the registered model predicts with them."""
    min_gain: float = 0.0
    """How much higher the top-1 must be than the current version's, in [0, 1]."""
    force: bool = False
    """Give the alias whatever the comparison says (it is still printed)."""
    data_licence: str = ""
    """What the model's card says of the licence of its data."""
    rollback: str = ""
    """Registered model whose alias goes back to the version that had it before; no run is read."""
    history: str = ""
    """Registered model: print who held its alias, and move nothing."""

    def __post_init__(self) -> None:
        others = [name for name in ("rollback", "history") if getattr(self, name)]
        if others:
            given = [name for name in ("run", "name", "rollback", "history") if getattr(self, name)]
            fix = f"leave out {', '.join(name for name in given if name != others[0])}: it takes the model's name alone"
            require(given == others[:1], others[0], getattr(self, others[0]), fix)
        else:
            require(bool(self.run), "run", self.run, "give a run to register, or --rollback NAME, or --history NAME")
        model = self.rollback or self.history or self.name
        require(bool(model) and not set(model) & set("/:"), "name", model, "give a model name without / and :")
        reserved = self.alias == "latest" or self.alias.lower().lstrip("v").isdigit()
        require(not reserved, "alias", self.alias, "MLflow reserves latest and v1, v2, ...; use another word")
        require(0 <= self.min_gain < 1, "min_gain", self.min_gain, "must be in [0, 1): 0.01 is one point of top-1")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and promote, roll back or print."""
    args = parse(PromoteArgs, args=argv, description=__doc__)
    if args.history:
        return print_history(args.history, args.alias)
    return rollback(args.rollback, args.alias) if args.rollback else promote(args)


def promote(args: PromoteArgs) -> int:
    """Register and decide; returns the exit code."""
    run = open_run(args.run)
    result = read_result(run)
    report = _report(run, args)
    if report.checkpoint != result["checkpoint"]:
        raise UserError(
            f"the report of {run.uri} is of {report.checkpoint}, the run ends with {result['checkpoint']}: run"
            " jobs.evaluate again"
        )
    check_server()
    version = _registered(run, result, report, args)
    current = aliased_version(args.name, args.alias)
    if current and current.version == version.version:
        console.print(f"{version.uri} has the alias {args.alias} already")
        return 0
    decision = compare(report, _report_of(current) if current else None, args.min_gain)
    if decision.promote or args.force:
        move_alias(version, args.alias, "promoted" if decision.promote else "forced", decision.why)
        if args.alias == CHAMPION:
            drop_alias(version, CANDIDATE)
        _describe_all(run, args.name)
        word = "promoted" if decision.promote else "promoted by force"
        console.print(
            f"{word}: {args.name}@{args.alias} is now version {version.version}: {decision.why}", markup=False
        )
        return 0
    stays = f"{args.name}@{args.alias} stays with version {current.version if current else '-'}"
    console.print(f"refused: {stays}: {decision.why}", markup=False)
    if args.alias == CHAMPION:
        move_alias(version, CANDIDATE, "promoted", f"not {CHAMPION}: {decision.why}")
        _describe_all(run, args.name)
        console.print(f"{args.name}@{CANDIDATE} is version {version.version}", markup=False)
    return 3


def _describe_all(run: Storage, name: str) -> None:
    describe_registered(name)
    finish_page(open_page(run), run)


def _report(run: Storage, args: PromoteArgs) -> EvalReport:
    views = args.num_views or default_views(read_run(run).train_config())
    protocol = protocol_name(views, args.num_crops)
    split = args.split or evaluated_split(run, protocol)
    command = (args.run, split, args.num_views, args.num_crops)
    try:
        return read_report(run, split, protocol, evaluate_command(*command, again=True))
    except NotFoundError as error:
        raise UserError(f"{error}: run `{evaluate_command(*command)}` first") from error


def _report_of(version: Version) -> EvalReport:
    """The report that a version was registered with. Its run's folder keeps it, whatever is evaluated later."""
    facts = facts_of(version)
    try:
        return EvalReport.from_json(open_storage(facts["run_uri"]).read(facts["report"]))
    except (KeyError, NotFoundError, UserError) as error:
        raise UserError(
            f"the current version {version.uri} has no readable report ({error}); evaluate it again, or use --force"
        ) from error


def _registered(run: Storage, result: dict, report: EvalReport, args: PromoteArgs) -> Version:
    identity = hashlib.sha256(f"{run.uri}/{result['checkpoint']} {report.to_json()}".encode()).hexdigest()[:16]
    tracking_run_id = tracking_run_of(run)
    for version in versions_of_run(args.name, tracking_run_id):
        if facts_of(version).get("identity") == identity:
            log.info("%s was registered before", version.uri)
            return version
    kept = f"registered/reports/{identity}.json"
    run.write(kept, report.to_json().encode())
    with fetched_checkpoint(run, result["checkpoint"]) as checkpoint, tempfile.TemporaryDirectory() as folder:
        state = read_state(checkpoint, ("config", "stored", "manifest_digest", "run_id"))
        views, crops = map(int, report.protocol.split("x"))
        packed = Path(folder) / "predictor"  # its name is kept in the registry
        packed.mkdir()
        pack(packed, checkpoint / WEIGHTS, state, views, crops)
        config = read_run(run).train_config()
        scored = DataInput(
            name=report.dataset,
            split=report.split,
            digest=report.manifest_digest,
            uri=config.data.uri,
            context="evaluation",
            num_samples=report.num_videos,
            num_classes=len(report.classes),
        )
        version, code = register(
            args.name,
            tracking_run_id=tracking_run_id,
            folder=packed,
            model_code=Path(__file__).with_name("model_code.py"),
            code=[Path(str(package.__file__)).parent for package in (pipeline, preprocessing)],
            requirements=[_pinned(name) for name in REQUIREMENTS],
            example=example_video(config.clip, config.model.modalities),
            tags={
                "top1": f"{report.top1:.4f}",
                "data": f"{report.dataset} {report.split}",
                "recipe": report.model,
                "views": report.protocol,
            },
            facts={
                "identity": identity,
                "run_uri": run.uri,
                "report": kept,
                "manifest_digest": report.manifest_digest,
                "modalities": ",".join(report.modalities),
            },
            scores=report.metrics(),
            data=scored,
        )
        digests = Registration(weights=file_sha256(packed / WEIGHTS), card=file_sha256(packed / CARD), code=code)
    write_registration(run, version.name, version.version, digests)
    describe(run, report, version, args.data_licence)
    return version


def _pinned(distribution: str) -> str:
    # Without the local part: "2.13.0+cpu" is one machine's build, the version is what the model needs.
    return f"{distribution}=={importlib.metadata.version(distribution).split('+')[0]}"
