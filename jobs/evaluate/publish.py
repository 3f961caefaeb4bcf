"""What follows an evaluation, of a run or of an ensemble: its files, its page, and the command that makes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.evaluation.plots import plot_confusion
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.storage import Storage
from pipeline.tracking.runs import RunTracker


def publish(folder: Storage, report: EvalReport, tracker: RunTracker, part: str = "") -> None:
    """Write the confusion matrix and the report to a folder, and both and the metrics to the run's MLflow page.

    Args:
        part: of the page; empty for the result of the run, else a checkpoint's name, which its metrics begin with.
    """
    place = f"evaluation/{part}".rstrip("/")
    with tempfile.TemporaryDirectory() as local:
        picture = Path(local) / f"confusion_{report.split}_{report.protocol}.png"
        plot_confusion(report, picture)
        text = Path(local) / f"{report.split}_{report.protocol}.json"
        text.write_text(report.to_json())
        folder.write_file(report_path(report.split, report.protocol, "png"), picture)
        tracker.log_file(picture, place)
        tracker.log_file(text, place)
    tracker.log_metrics({f"{part}/{name}".lstrip("/"): value for name, value in report.metrics().items()}, 0)
    folder.write(
        report_path(report.split, report.protocol), report.to_json().encode()
    )  # last: it says that all the rest is there


def evaluate_command(run: str, split: str, num_views: int, num_crops: int, *, again: bool = False) -> str:
    """The command line that writes a report; ``num_views`` 0 is the paper's number."""
    views = f" --num-views {num_views}" if num_views else ""
    crops = f" --num-crops {num_crops}" if num_crops != 1 else ""
    return f"python -m jobs.evaluate {run} --split {split}{views}{crops}{' --again' if again else ''}"
