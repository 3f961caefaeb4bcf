"""One MLflow run per training, evaluation or preprocessing run, found again by a tag.

The driver creates the run and passes its id to the workers; rank 0 logs to it. A command that is run again finds its
MLflow run by the tag ``reciprocal.run_id`` instead of creating a second one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from pipeline.common.printable import printable
from pipeline.config.stack import find_stack, home, state_folder, tracking_credentials, tracking_uri
from pipeline.errors import UserError

TAG = "reciprocal.run_id"
_given: dict[str, str] = {}  # credentials that this module put into the environment
_MAX_PARAMS = 100  # per request to MLflow
_MAX_VALUE = 6000  # characters per value of a parameter


def address() -> str:
    """Address of the tracking server; without a local stack and ``MLFLOW_TRACKING_URI``, of a database file in the
    state folder.
    """
    if uri := tracking_uri():
        _log_in()
        return uri
    database = state_folder("offline") / "mlflow.db"
    database.touch(mode=0o600)
    database.chmod(0o600)  # SQLite keeps it, for its journal too
    return f"sqlite:///{database}"


def _log_in() -> None:
    """Give MLflow's client what lets it in: it reads that from its environment, and nothing from its caller.

    The local stack's password is taken back once another server is meant, so that no other server sees it.
    """
    wanted = tracking_credentials()
    for name in [name for name, value in _given.items() if name not in wanted and os.environ.get(name) == value]:
        del os.environ[name]
    _given.clear()
    _given.update(wanted)
    os.environ.update(wanted)


def client() -> mlflow.MlflowClient:
    """Client of ``address()``. Sends no request yet."""
    uri = address()
    # A server that is down should be reported in seconds, not after MLflow's default of several minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Commands print the address of the page themselves.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_server() -> str:
    """Address of the tracking server. Raises UserError if it does not answer."""
    mlflow_client = client()
    try:
        mlflow_client.search_experiments(max_results=1)
    except MlflowException as error:
        stack = find_stack()
        local = stack is not None and stack.mlflow_uri == address()
        fix = "the local stack is down: python -m infra.local up" if local else "check MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow at {address()} does not answer: {fix}") from error
    return address()


def find_run(mlflow_client: mlflow.MlflowClient, experiment: str, run_id: str) -> Run | None:
    """The run of an experiment tagged with our ``run_id``, or None."""
    found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = mlflow_client.search_runs(
        [found.experiment_id], f"tags.`{TAG}` = '{_tag_of(run_id)}'", ViewType.ACTIVE_ONLY, max_results=1
    )
    return runs[0] if runs else None


def start_run(experiment: str, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Find or create the run tagged ``run_id``; returns MLflow's own id. Parameters are logged only on creation."""
    mlflow_client = client()
    if run := find_run(mlflow_client, experiment, run_id):
        mlflow_client.update_run(run.info.run_id, status="RUNNING")
        return run.info.run_id
    found = mlflow_client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else _create_experiment(mlflow_client, experiment)
    tags = {TAG: _tag_of(run_id), **_printable(tags)}
    run = mlflow_client.create_run(experiment_id, run_name=printable(run_id), tags=tags)
    flat = [Param(key, printable(value)[:_MAX_VALUE]) for key, value in _flatten(params)]
    for start in range(0, len(flat), _MAX_PARAMS):
        mlflow_client.log_batch(run.info.run_id, params=flat[start : start + _MAX_PARAMS])
    return run.info.run_id


def _tag_of(run_id: str) -> str:
    """``run_id`` as its tag: a search for the tag could not quote a quote."""
    return re.sub(r"['\"`\\]", "_", printable(run_id))


def _printable(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: printable(value) for key, value in tags.items()}


def _create_experiment(mlflow_client: mlflow.MlflowClient, name: str) -> str:
    try:
        # The kind makes MLflow's page open with runs and curves instead of its views for language models.
        # A server proxies artifacts; without one they are stored next to the database file.
        location = f"file://{home() / 'offline' / 'artifacts'}" if address().startswith("sqlite:") else None
        return mlflow_client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )
    except MlflowException:  # another process created it in the meantime
        found = mlflow_client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def _flatten(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in params.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat


class RunTracker:
    """Logs to one MLflow run. Cheap to create, and picklable: it only has the run's id."""

    def __init__(self, tracking_run_id: str) -> None:
        self.tracking_run_id = tracking_run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point to each curve; names may contain ``/``."""
        now = int(time.time() * 1000)
        client().log_batch(
            self.tracking_run_id, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()]
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        client().log_batch(self.tracking_run_id, tags=[RunTag(key, value) for key, value in _printable(tags).items()])

    def log_file(self, path: Path, folder: str = "") -> None:
        """Store a local file as an artifact."""
        client().log_artifact(self.tracking_run_id, str(path), folder or None)

    def log_text(self, text: str, name: str) -> None:
        client().log_text(self.tracking_run_id, text, name)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        client().set_terminated(self.tracking_run_id, status)


def run_page(tracking_run_id: str) -> str:
    """Address of the run's page on the tracking server; what to do if that server does not have the run."""
    try:
        experiment = client().get_run(tracking_run_id).info.experiment_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return f"none: {address()} has no run {tracking_run_id}; set MLFLOW_TRACKING_URI to the server that has it"
    return f"{address()}/#/experiments/{experiment}/runs/{tracking_run_id}"
