"""A run's page on the tracking server: found by MLflow's id or by our tag, or made, with its parameters and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipeline.common.printable import printable
from pipeline.config.stack import home
from pipeline.tracking.entries import PageRecord
from pipeline.tracking.runs import TAG, address, client, find_run, tag_of

_MAX_PARAMS = 100  # per request to MLflow
_MAX_VALUE = 6000  # characters per value of a parameter


def page_record(
    experiment: str, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str], tracking_run_id: str = ""
) -> PageRecord:
    """What a new page will show.

    Args:
        run_id: ours; a command that is run again finds its page by it.
        params: may be nested; names are joined with dots.
        tracking_run_id: MLflow's id of the page, where there is one.
    """
    flat = {key: printable(value)[:_MAX_VALUE] for key, value in _flatten(params)}
    shown = {key: printable(value) for key, value in tags.items()}
    return PageRecord(experiment=experiment, run_id=run_id, params=flat, tags=shown, tracking_run_id=tracking_run_id)


def find_or_make(record: PageRecord, tracking_run_id: str = "") -> Run:
    """The page as MLflow has it now; made, or completed, where a request for it did not come through.

    Args:
        tracking_run_id: MLflow's id of it, if it is known; a page that was deleted is made anew.

    Raises:
        MlflowException: the server does not do it.
    """
    mlflow_client = client()
    known = (tracking_run_id, record.tracking_run_id)
    found = next((run for run in (_existing(mlflow_client, name) for name in known if name) if run), None)
    run = found or find_run(mlflow_client, record.experiment, record.run_id) or _make(mlflow_client, record)
    params = [Param(key, value) for key, value in record.params.items() if key not in run.data.params]
    tags = [RunTag(key, value) for key, value in record.tags.items() if key not in run.data.tags]
    for start in range(0, len(params), _MAX_PARAMS):
        mlflow_client.log_batch(run.info.run_id, params=params[start : start + _MAX_PARAMS])
    if tags:
        mlflow_client.log_batch(run.info.run_id, tags=tags)
    return run


def _existing(mlflow_client: mlflow.MlflowClient, tracking_run_id: str) -> Run | None:
    try:
        run = mlflow_client.get_run(tracking_run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _make(mlflow_client: mlflow.MlflowClient, record: PageRecord) -> Run:
    found = mlflow_client.get_experiment_by_name(record.experiment)
    experiment_id = found.experiment_id if found else _make_experiment(mlflow_client, record.experiment)
    tags = {TAG: tag_of(record.run_id), **record.tags}
    return mlflow_client.create_run(
        experiment_id, start_time=record.started_ms, run_name=printable(record.run_id), tags=tags
    )


def _make_experiment(mlflow_client: mlflow.MlflowClient, name: str) -> str:
    try:
        # The kind makes MLflow's page open with runs and curves instead of its views for language models.
        # A server proxies artifacts; without one they are stored next to the database file.
        location = f"file://{home() / 'offline' / 'artifacts'}" if address().startswith("sqlite:") else None
        return mlflow_client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )
    except MlflowException:  # another process made it in the meantime
        found = mlflow_client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def _flatten(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in params.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat
