"""What follows an evaluation, of a run or of an ensemble: its files, its page, and the command that makes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.evaluation.plots import plot_confusion
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.storage import Storage
from pipeline.tracking.journal import RunJournal


def publish(folder: Storage, report: EvalReport, journal: RunJournal, part: str = "") -> None:
    """Write the confusion matrix and the report to a folder; both and the metrics go to the run's page.

    Args:
        journal: of the run.
        part: of the run's folder and page; empty for the result of the run, else a checkpoint's name, which its
            metrics begin with.
    """
    name, place = f"{report.split}_{report.protocol}", f"evaluation/{part}".rstrip("/")
    path = report_path(report.split, report.protocol, "png")
    with tempfile.TemporaryDirectory() as local:
        picture = Path(local) / "confusion.png"
        plot_confusion(report, picture)
        folder.write_file(path, picture)
    journal.log_object(f"{part}/{path}".lstrip("/"), f"{place}/confusion_{name}.png")
    journal.log_text(report.to_json(), f"{place}/{name}.json")
    journal.log_scores({f"{part}/{metric}".lstrip("/"): value for metric, value in report.metrics().items()})
    journal.flush()
    folder.write(
        report_path(report.split, report.protocol), report.to_json().encode()
    )  # last: it says that all the rest is there


def evaluate_command(run: str, split: str, num_views: int, num_crops: int, *, again: bool = False) -> str:
    """The command line that writes a report; ``num_views`` 0 is the paper's number."""
    views = f" --num-views {num_views}" if num_views else ""
    crops = f" --num-crops {num_crops}" if num_crops != 1 else ""
    return f"python -m jobs.evaluate {run} --split {split}{views}{crops}{' --again' if again else ''}"
