"""A run that logs as a training does, and what a tracking server must have of it."""

from __future__ import annotations

import time
from typing import Any

import mlflow

from pipeline.storage import Storage
from pipeline.tracking.journal import RunJournal
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record
from tests.support.tracking_server import TrackingServer

EVERY_S = 0.1  # between two writes of the journal, and two looks at it


def page_of(run: Storage) -> RunPage:
    """Of a run with a name and an experiment of its own."""
    name = run.uri.replace("/", "-")[-100:]
    return RunPage(run, page_record(f"of {name}", name, {"optim": {"lr": 0.1}}, {"kind": "train"}), EVERY_S)


def log_steps(run: Storage, steps: range, pause_s: float = 0.0) -> float:
    """As rank 0 does, with a flush before a checkpoint every 5 steps; the longest time that a point took, in
    seconds.
    """
    journal, worst_s = RunJournal(run, EVERY_S), 0.0
    for step in steps:
        start_s = time.perf_counter()
        journal.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step)
        worst_s = max(worst_s, time.perf_counter() - start_s)
        if step % 5 == 4:
            journal.flush()
            journal.log_metrics({"val/top1_1x1": step / 100}, step)
        time.sleep(pause_s)
    journal.close()
    return worst_s


def pages_of(server: TrackingServer, run: Storage) -> list[Any]:
    """All pages of the run's experiment, asked without a proxy."""
    asked = mlflow.MlflowClient(server.address)
    experiment = asked.get_experiment_by_name(page_of(run).record.experiment)
    assert experiment is not None
    return list(asked.search_runs([experiment.experiment_id]))


def assert_complete(server: TrackingServer, run: Storage, steps: range, status: str = "FINISHED") -> Any:
    """One page on the server with exactly the points of ``log_steps``."""
    asked = mlflow.MlflowClient(server.address)
    (found,) = pages_of(server, run)
    history = {
        name: [(p.step, p.value) for p in asked.get_metric_history(found.info.run_id, name)]
        for name in ("train/loss", "train/lr", "val/top1_1x1")
    }
    assert history == {
        "train/loss": [(step, 1 / (step + 1)) for step in steps],
        "train/lr": [(step, 0.1) for step in steps],
        "val/top1_1x1": [(step, step / 100) for step in steps if step % 5 == 4],
    }
    assert found.info.status == status
    assert found.data.params == {"optim.lr": "0.1"}
    assert found.data.tags["kind"] == "train"
    return found
