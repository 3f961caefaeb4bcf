"""The model registry: versions of models that classify raw videos, and the aliases that point to them."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from pipeline.tracking.model_files import code_digest
from pipeline.tracking.runs import address, client

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "video")]),
    outputs=Schema([ColSpec(Array(DataType.string), "labels"), ColSpec(Array(DataType.double), "probabilities")]),
)


class Predictor(Protocol):
    """What a registered model wraps."""

    def __call__(self, videos: Sequence[bytes]) -> list[tuple[list[str], list[float]]]: ...


class VideoModel(mlflow.pyfunc.PythonModel):
    """pyfunc model: from a table with the column ``video`` (bytes of whole files) to one with ``labels`` and
    ``probabilities``, most probable first.

    Args:
        load: makes a Predictor of the artifact folder.
    """

    def __init__(self, load: Callable[[Path], Predictor]) -> None:
        self._load = load
        self._predictor: Predictor | None = None

    def load_context(self, context: Any) -> None:
        self._predictor = self._load(Path(context.artifacts["model"]))

    # MLflow's abstract method has no annotations and an empty body, from which pyright infers that it returns None.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        if self._predictor is None:
            self.load_context(context)
        assert self._predictor is not None
        rows = self._predictor([bytes(video) for video in model_input["video"]])
        return pd.DataFrame({"labels": [labels for labels, _ in rows], "probabilities": [p for _, p in rows]})


def serve(load: Callable[[Path], Predictor]) -> None:
    """Called by a model's code file to register the object that MLflow serves."""
    mlflow.models.set_model(VideoModel(load))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version."""

    name: str
    version: str
    tracking_run_id: str
    tags: dict[str, str]
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
    tags: Mapping[str, str],
) -> tuple[Version, str]:
    """Store ``folder`` as a pyfunc model of a run and register it as the next version of ``name``.

    Args:
        folder: the artifact folder that the model reads.
        model_code: the Python file that calls ``serve``; it is stored with the model and run when the model is loaded.
        code: package folders stored with the model, so that it loads without this project installed.
        requirements: pip requirements of prediction.
        tags: of the version (evaluation, digest, ...).

    Returns:
        The version, and ``code_digest`` of what was uploaded, taken before it left this machine.
    """
    mlflow_client = client()
    mlflow.set_tracking_uri(address())
    experiment_id = mlflow_client.get_run(tracking_run_id).info.experiment_id
    logged = mlflow_client.create_logged_model(experiment_id, name="model", source_run_id=tracking_run_id)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")
        # Warnings would ask for an input example, which would be a whole video; the rest is progress.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        local = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            path=str(local),
            python_model=str(model_code),
            artifacts={"model": str(folder)},
            code_paths=[str(path) for path in code],
            pip_requirements=list(requirements),
            signature=SIGNATURE,
            metadata=dict(tags),
            mlflow_model=mlflow.models.Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=tracking_run_id,
                model_id=logged.model_id,
                metadata=dict(tags),
            ),
        )
        for cache in [*local.rglob("__pycache__")]:  # save_model imports the code that it copied
            shutil.rmtree(cache)
        digest = code_digest(local)
        mlflow_client.log_model_artifacts(logged.model_id, str(local))
    mlflow_client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    mlflow_client.log_outputs(tracking_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        mlflow_client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = mlflow_client.create_model_version(
        name, f"models:/{logged.model_id}", tracking_run_id, tags=dict(tags), model_id=logged.model_id
    )
    return _version(created), digest


def aliased_version(name: str, alias: str) -> Version | None:
    """The version that an alias points to, or None."""
    try:
        found = client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return _version(found)


def version_tags(name: str, number: str) -> dict[str, str]:
    """Tags of a version. Whoever may write to the registry decides what they say."""
    return dict(client().get_model_version(name, number).tags)


def version_of(name: str, number: str) -> Version | None:
    """A version by its number, or None."""
    try:
        return _version(client().get_model_version(name, number))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


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


def _version(found: Any, aliases: tuple[str, ...] = ()) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        tracking_run_id=found.run_id or "",
        tags=dict(found.tags),
        aliases=aliases,
    )
