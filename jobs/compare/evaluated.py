"""One evaluated run or ensemble, as ``jobs.compare`` takes it."""

from __future__ import annotations

import dataclasses
import re

from jobs.ensemble.members import Protocol
from jobs.evaluate.again import evaluate_command
from jobs.recipes import default_views
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, NotFoundError, UserError
from pipeline.evaluation.predictions import Predictions, read_predictions
from pipeline.evaluation.report import SPLITS, EvalReport, protocol_name, read_report, report_path
from pipeline.runs.folder import RUN, open_run, read_result, read_run
from pipeline.storage import Storage, open_storage

_REPORT = re.compile(r"evaluations/(?P<split>.+)_(?P<protocol>\d+x\d+)\.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A report and where it came from."""

    name: str
    """As the user gave it."""
    folder: Storage
    report: EvalReport
    config: TrainConfig | None
    """None for an ensemble."""

    def predictions(self) -> Predictions:
        """What the evaluation stored. Raises UserError where it is missing or is not the report's."""
        report = self.report
        try:
            data = self.folder.read(report_path(report.split, report.protocol, "npz"))
        except NotFoundError as error:
            raise UserError(f"{self.name} has no predictions ({error}): an ensemble keeps none") from error
        return read_predictions(data, report.predictions)


def open_evaluated(name: str, protocol: Protocol) -> Evaluated:
    """The report of a run or an ensemble under a protocol.

    Args:
        name: run id, or URI of the folder of a run or an ensemble.
        protocol: an empty split or 0 views take what was evaluated: test before val, the paper's number of views
            before others.

    Raises:
        UserError: no such folder, not finished, not evaluated (says the command), or evaluated in several ways of
            which none is the paper's.
    """
    folder = open_storage(name) if "://" in name else open_run(name)
    if folder.uri.startswith("s3://"):
        folder.probe(write=False)  # a missing server or bucket is reported at once
    ensemble = not folder.exists(RUN)
    config = None if ensemble else read_run(folder).train_config()
    found = [match for path in sorted(folder.list("evaluations/")) if (match := _REPORT.fullmatch(path))]
    views = protocol.num_views or (default_views(config) if config else 0)
    wanted = [
        match
        for match in found
        if protocol.split in ("", match["split"])
        and (not protocol.num_views or match["protocol"] == protocol_name(views, protocol.num_crops))
    ]
    if not wanted:
        there = [f"{match['split']} {match['protocol']}" for match in found]
        raise ConfigError("runs", name, _missing(name, protocol, ensemble, there))
    usual = protocol_name(views, protocol.num_crops)
    wanted.sort(key=lambda match: (_rank(match["split"]), match["protocol"] != usual))
    best = wanted[0]
    alike = [match for match in wanted if match["split"] == best["split"]]
    if len(alike) > 1 and best["protocol"] != usual:
        fix = f"it was evaluated as {', '.join(m['protocol'] for m in alike)}: name one (--num-views, --num-crops)"
        raise ConfigError("runs", name, fix)
    split, found_protocol = best["split"], best["protocol"]
    command = evaluate_command(name, split, protocol.num_views, protocol.num_crops, again=True)
    report = read_report(folder, split, found_protocol, command)
    if config is not None and report.checkpoint != (last := read_result(folder)["checkpoint"]):
        fix = f"its report is of {report.checkpoint}, the run ends with {last}: run `{command}`"
        raise ConfigError("runs", name, fix)
    return Evaluated(name=name, folder=folder, report=report, config=config)


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _missing(name: str, protocol: Protocol, ensemble: bool, there: list[str]) -> str:
    asked = f" as {protocol.split or 'any split'}, {protocol.num_views or 'any'} views" if there else ""
    known = f" (it was as {', '.join(there)})" if there else ""
    if ensemble:
        return f"neither a run ({RUN}) nor an ensemble with an evaluation{asked}{known}: give one that is"
    command = evaluate_command(name, protocol.split or SPLITS[0], protocol.num_views, protocol.num_crops)
    return f"it was not evaluated{asked}{known}: run `{command}`"
