"""The model registry: versions of models that classify raw videos, and the aliases that point to them."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from pipeline.tracking.entries import DataInput
from pipeline.tracking.model_files import code_digest
from pipeline.tracking.runs import address, client
from pipeline.tracking.video_model import SIGNATURE
from pipeline.tracking.video_model import serve as serve  # where models of older code look for it

_LOGGED = "models:/"  # begins the source of a version that was made of a logged model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version."""

    name: str
    version: str
    tracking_run_id: str
    tags: dict[str, str]
    """As its page shows them."""
    model_id: str
    """MLflow's id of the model that was logged for it; empty where it was made of plain files."""
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(
    name: str,
    *,
    tracking_run_id: str,
    folder: Path,
    model_code: Path,
    code: Sequence[Path],
    requirements: Sequence[str],
    example: bytes,
    tags: Mapping[str, str],
    facts: Mapping[str, str],
    scores: Mapping[str, float],
    data: DataInput,
) -> tuple[Version, str]:
    """Store ``folder`` as a pyfunc model of a run and register it as the next version of ``name``.

    Args:
        folder: the artifact folder that the model reads.
        model_code: the Python file that calls ``serve``; it is stored with the model and run when the model is loaded.
        code: package folders stored with the model, so that it loads without this project installed.
        requirements: pip requirements of prediction.
        example: a small video file, stored as the model's input example.
        tags: of the version, short: its page shows them.
        facts: for commands; tags of the logged model, since the pages of versions have no room for them.
        scores: metrics of the run, tied to the model.
        data: what they were measured on.

    Returns:
        The version, and ``code_digest`` of what was uploaded, taken before it left this machine.
    """
    mlflow_client = client()
    mlflow.set_tracking_uri(address())
    experiment_id = mlflow_client.get_run(tracking_run_id).info.experiment_id
    logged = mlflow_client.create_logged_model(experiment_id, name="model", source_run_id=tracking_run_id)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        local = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            path=str(local),
            python_model=str(model_code),
            artifacts={"model": str(folder)},
            code_paths=[str(path) for path in code],
            pip_requirements=list(requirements),
            signature=SIGNATURE,
            metadata={**tags, **facts},
            input_example=pd.DataFrame({"video": [example]}),
            mlflow_model=mlflow.models.Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=tracking_run_id,
                model_id=logged.model_id,
                metadata={**tags, **facts},
            ),
        )
        for cache in [*local.rglob("__pycache__")]:  # save_model imports the code that it copied
            shutil.rmtree(cache)
        digest = code_digest(local)
        mlflow_client.log_model_artifacts(logged.model_id, str(local))
    mlflow_client.set_logged_model_tags(logged.model_id, dict(facts))
    mlflow_client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    mlflow_client.log_outputs(tracking_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _tie_scores(tracking_run_id, logged.model_id, scores, data)
    try:
        mlflow_client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = mlflow_client.create_model_version(
        name,
        f"models:/{logged.model_id}",
        tracking_run_id,
        tags=dict(tags),
        model_id=logged.model_id,
    )
    return _version(created), digest


def _tie_scores(tracking_run_id: str, model_id: str, scores: Mapping[str, float], data: DataInput) -> None:
    """Metrics that the run has, of the model and the data set too; each at its own step and time, so that the run's
    curves get no second point.
    """
    tied = []
    for name in scores:
        if history := client().get_metric_history(tracking_run_id, name):
            last = history[-1]
            tied.append(
                Metric(
                    name,
                    last.value,
                    last.timestamp,
                    last.step,
                    model_id=model_id,
                    dataset_name=data.shown_name,
                    dataset_digest=data.shown_digest,
                    run_id=tracking_run_id,
                )
            )
    if tied:
        client().log_batch(tracking_run_id, metrics=tied)


def describe_model(name: str, text: str) -> None:
    """Set the description of a registered model (Markdown)."""
    client().update_registered_model(name, text)


def describe_version(version: Version, text: str) -> None:
    """Set the description of a version (Markdown)."""
    client().update_model_version(version.name, version.version, text)


def aliased_version(name: str, alias: str) -> Version | None:
    """The version that an alias points to, or None."""
    try:
        found = client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return _version(found)


def version_of(name: str, number: str) -> Version | None:
    """A version by its number, or None."""
    try:
        return _version(client().get_model_version(name, number))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def facts_of(version: Version) -> dict[str, str]:
    """The facts that ``register`` was given; older code had them among the version's tags. Whoever may write to the
    registry decides what they say.
    """
    if not version.model_id:
        return version.tags
    try:
        return {**version.tags, **client().get_logged_model(version.model_id).tags}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return version.tags


def versions(name: str) -> list[Version]:
    """All versions of a model with their aliases, oldest first; empty if the model does not exist."""
    mlflow_client = client()
    try:
        model = mlflow_client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    aliases: dict[str, list[str]] = {}
    for alias, number in model.aliases.items():
        aliases.setdefault(str(number), []).append(alias)
    found = mlflow_client.search_model_versions(f"name = '{name}'")
    return sorted(
        (_version(v, tuple(sorted(aliases.get(str(v.version), ())))) for v in found), key=lambda v: int(v.version)
    )


def versions_of_run(name: str, tracking_run_id: str) -> list[Version]:
    """The versions of a model that were registered from a run, oldest first; empty if the model does not exist."""
    found = client().search_model_versions(f"name = '{name}' and run_id = '{tracking_run_id}'")
    return sorted((_version(v) for v in found), key=lambda version: int(version.version))


def _version(found: Any, aliases: tuple[str, ...] = ()) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        tracking_run_id=found.run_id or "",
        tags=dict(found.tags),
        model_id=(found.source or "").removeprefix(_LOGGED) if (found.source or "").startswith(_LOGGED + "m-") else "",
        aliases=aliases,
    )
