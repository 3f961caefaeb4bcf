"""Register a finished run's model and, if its evaluation beats the current version's, give it the alias.

    python -m jobs.promote RUN --name synthetic-crn              # alias champion
    python -m jobs.promote RUN --name synthetic-crn --alias candidate --force

Reads    RUN's final checkpoint and its report of --split (written by jobs.evaluate).
Writes   a version of the registered model, once per checkpoint and report, and the digests of its files into RUN's
         folder; the alias, if it is earned.
Exit     0 registered and promoted (or it has the alias already); 3 registered, promotion refused, and why; 1 failed
         while running; 2 refused before any work.
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
from jobs.evaluate.publish import evaluate_command
from jobs.recipes import default_views
from jobs.train.page import tracking_run_of
from pipeline.common.cli import console, parse
from pipeline.common.digest import file_sha256
from pipeline.errors import ConfigError, NotFoundError, UserError
from pipeline.evaluation.report import EvalReport, compare, evaluated_split, protocol_name, read_report, report_path
from pipeline.runs.folder import fetched_checkpoint, open_run, read_result, read_run
from pipeline.runs.registered import Registration, write_registration
from pipeline.serving.card import CARD, WEIGHTS
from pipeline.serving.predictor import REQUIREMENTS, pack
from pipeline.storage import Storage, open_storage
from pipeline.tracking.registry import Version, aliased_version, register, set_alias, versions
from pipeline.tracking.runs import check_server
from pipeline.training.checkpoint import read_state

log = logging.getLogger("jobs.promote")


@dataclasses.dataclass(frozen=True)
class PromoteArgs:
    """Register a run's model and compare it with the version that has the alias."""

    run: Annotated[str, tyro.conf.Positional]
    """Run id (on the local stack) or URI of the run's folder."""
    name: str
    """Registered model."""
    alias: str = "champion"
    split: str = ""
    """Split whose report decides; empty: test if the run was evaluated on it, else val."""
    num_views: int = 0
    """Protocol that decides; 0: the paper's number of views."""
    num_crops: Literal[1, 3] = 1
    """Crops of each view, of the same protocol; the registered model predicts with them."""
    force: bool = False
    """Give the alias whatever the comparison says (it is still printed)."""

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/:"):
            raise ConfigError("name", self.name, "give a model name without / and :")
        if self.alias == "latest" or self.alias.lower().lstrip("v").isdigit():
            raise ConfigError("alias", self.alias, "MLflow reserves latest and v1, v2, ...; use another word")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and promote."""
    return promote(parse(PromoteArgs, args=argv, description=__doc__))


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
    decision = compare(report, _report_of(current) if current else None)
    if decision.promote or args.force:
        set_alias(version, args.alias)
        word = "promoted" if decision.promote else "promoted by force"
        console.print(
            f"{word}: {args.name}@{args.alias} is now version {version.version}: {decision.why}", markup=False
        )
        return 0
    console.print(
        f"refused: {args.name}@{args.alias} stays with version {current.version if current else '-'}: {decision.why}",
        markup=False,
    )
    return 3


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
    """The report that a version's promotion was based on. Its run's folder keeps it."""
    try:
        return EvalReport.from_json(open_storage(version.tags["run_uri"]).read(version.tags["report"]))
    except (KeyError, NotFoundError, UserError) as error:
        raise UserError(
            f"the current version {version.uri} has no readable report ({error}); evaluate it again, or use --force"
        ) from error


def _registered(run: Storage, result: dict, report: EvalReport, args: PromoteArgs) -> Version:
    identity = hashlib.sha256(f"{run.uri}/{result['checkpoint']} {report.to_json()}".encode()).hexdigest()[:16]
    for version in versions(args.name):
        if version.tags.get("identity") == identity:
            log.info("%s was registered before", version.uri)
            return version
    with fetched_checkpoint(run, result["checkpoint"]) as checkpoint, tempfile.TemporaryDirectory() as folder:
        state = read_state(checkpoint, ("config", "stored", "manifest_digest", "run_id"))
        views, crops = map(int, report.protocol.split("x"))
        packed = Path(folder) / "predictor"  # its name is kept in the registry
        packed.mkdir()
        pack(packed, checkpoint / WEIGHTS, state, views, crops)
        tags = {
            "identity": identity,
            "run_uri": run.uri,
            "report": report_path(report.split, report.protocol),
            "recipe": report.model,
            "dataset": report.dataset,
            "manifest_digest": report.manifest_digest,
            "protocol": report.protocol,
            f"{report.split}_top1": f"{report.top1:.4f}",
            "modalities": ",".join(report.modalities),
        }
        version, code = register(
            args.name,
            tracking_run_id=tracking_run_of(run),
            folder=packed,
            model_code=Path(__file__).with_name("model_code.py"),
            code=[Path(str(package.__file__)).parent for package in (pipeline, preprocessing)],
            requirements=[_pinned(name) for name in REQUIREMENTS],
            tags=tags,
        )
        digests = Registration(weights=file_sha256(packed / WEIGHTS), card=file_sha256(packed / CARD), code=code)
    write_registration(run, version.name, version.version, digests)
    return version


def _pinned(distribution: str) -> str:
    # Without the local part: "2.13.0+cpu" is one machine's build, the version is what the model needs.
    return f"{distribution}=={importlib.metadata.version(distribution).split('+')[0]}"
