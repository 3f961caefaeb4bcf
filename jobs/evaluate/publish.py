"""What follows an evaluation, of a run or of an ensemble: its files, its page, and the command that makes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jobs.compare.evaluated import Evaluated
from jobs.evaluate.classes import as_csv, class_rows
from jobs.evaluate.page import EvaluatedVideos, evaluation_page
from pipeline.evaluation.plots import plot_confusion
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.tracking.journal import RunJournal

_MEANING = {"html": "page_", "csv": "classes_", "png": "confusion_", "json": ""}


def artifact_name(report: EvalReport, ending: str, part: str = "") -> str:
    """Name of an evaluation's artifact on the run's page, by the ending of its file; ``part`` as of ``publish``."""
    place = f"evaluation/{part}".rstrip("/")
    return f"{place}/{_MEANING[ending]}{report.split}_{report.protocol}.{ending}"


def publish(
    run: Evaluated, predictions: Predictions, videos: EvaluatedVideos, journal: RunJournal, part: str = ""
) -> None:
    """Write the report of an evaluation to its folder, with its page (HTML), its confusion matrix (PNG) and the scores
    of its classes (CSV); all of them and the metrics go to the run's page.

    Args:
        run: its folder, and the report to write.
        journal: of the run.
        part: of the run's folder and page; empty for the result of the run, else a checkpoint's name, which its
            metrics begin with.
    """
    folder, report = run.folder, run.report
    rows = class_rows(report)
    with tempfile.TemporaryDirectory() as local:
        picture = Path(local) / "confusion.png"
        plot_confusion(report, picture)
        png = picture.read_bytes()
    page = evaluation_page(run, predictions, videos, rows, png)
    contents = {"html": page.encode("utf-8", "replace"), "csv": as_csv(rows).encode(), "png": png}
    for ending, data in contents.items():
        path = report_path(report.split, report.protocol, ending)
        folder.write(path, data)
        journal.log_object(f"{part}/{path}".lstrip("/"), artifact_name(report, ending, part))
    journal.log_text(report.to_json(), artifact_name(report, "json", part))
    journal.log_scores({f"{part}/{metric}".lstrip("/"): value for metric, value in report.metrics().items()})
    journal.flush()
    folder.write(
        report_path(report.split, report.protocol), report.to_json().encode()
    )  # last: it says that all the rest is there
