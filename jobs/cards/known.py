"""What is known of a run, from its folder and its data set."""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import Any

from jobs.compare.evaluated import Evaluated
from pipeline.common.strict_json import MAX_BYTES
from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import StorageError, UserError
from pipeline.evaluation.report import EvalReport
from pipeline.runs.folder import RESULT, RUN, RunRecord, read_result, read_run
from pipeline.storage import Storage, open_storage

log = logging.getLogger("jobs.cards")
_REPORT = re.compile(r"evaluations/.+_\d+x\d+\.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """Of a run, or of an ensemble, which has neither record nor result."""

    folder: Storage
    reports: tuple[EvalReport, ...]
    """Evaluations of its result, in the order of their names."""
    record: RunRecord | None = None
    config: TrainConfig | None = None
    result: dict[str, Any] | None = None
    """None: not finished."""
    manifest: Manifest | None = None
    """None: the data set cannot be read, or is another version by now."""

    def evaluated(self, report: EvalReport) -> Evaluated:
        """As ``jobs.compare`` takes it."""
        return Evaluated(name=report.run_id, folder=self.folder, report=report, config=self.config)


def read_known(folder: Storage) -> Known:
    """Read the folder of a run or an ensemble.

    Raises:
        UserError, StorageError: its record or result is damaged, or cannot be read.
    """
    record = read_run(folder) if folder.exists(RUN) else None
    result = read_result(folder) if folder.exists(RESULT) else None
    reports = []
    for path in sorted(path for path in folder.list("evaluations/") if _REPORT.fullmatch(path)):
        try:
            report = EvalReport.from_json(folder.read(path, MAX_BYTES), f"{folder.uri}/{path}")
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        if result is None or report.checkpoint == result["checkpoint"]:
            reports.append(report)
    config = record.train_config() if record else None
    return Known(
        folder=folder,
        reports=tuple(reports),
        record=record,
        config=config,
        result=result,
        manifest=_manifest(config.data.uri, record.manifest_digest) if config and record else None,
    )


def _manifest(uri: str, digest: str) -> Manifest | None:
    try:
        found = read_manifest(open_storage(uri))
    except (UserError, StorageError) as error:
        log.debug("no data set at %s: %s", uri, error)
        return None
    return found if found.digest == digest else None
