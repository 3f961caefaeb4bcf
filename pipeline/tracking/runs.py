"""The tracking server: its address, who is let in, and the MLflow run that a command finds again by a tag.

A command that is run again finds its MLflow run by the tag ``reciprocal.run_id`` instead of creating a second one.
"""

from __future__ import annotations

import os
import re

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from pipeline.common.printable import printable
from pipeline.config.stack import find_stack, state_folder, tracking_credentials, tracking_uri
from pipeline.errors import UserError

TAG = "reciprocal.run_id"
TrackingError = MlflowException
"""What a tracking server answers, or that it does not."""
# What MLflow answers where the same request will never do, and what a proxy's plain 400 is taken for.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"}
_given: dict[str, str] = {}  # credentials that this module put into the environment


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


def is_refusal(error: MlflowException) -> bool:
    """Whether the same request would be refused again."""
    return error.error_code in _REFUSALS


def find_run(mlflow_client: mlflow.MlflowClient, experiment: str, run_id: str) -> Run | None:
    """The run of an experiment tagged with our ``run_id``, or None."""
    found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = mlflow_client.search_runs(
        [found.experiment_id], f"tags.`{TAG}` = '{tag_of(run_id)}'", ViewType.ACTIVE_ONLY, max_results=1
    )
    return runs[0] if runs else None


def tag_of(run_id: str) -> str:
    """``run_id`` as its tag: a search for the tag could not quote a quote."""
    return re.sub(r"['\"`\\]", "_", printable(run_id))


def run_page(tracking_run_id: str) -> str:
    """Address of the run's page on the tracking server; what to do if that server does not have the run."""
    try:
        experiment = client().get_run(tracking_run_id).info.experiment_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return f"none: {address()} has no run {tracking_run_id}; set MLFLOW_TRACKING_URI to the server that has it"
    return f"{address()}/#/experiments/{experiment}/runs/{tracking_run_id}"
