"""The model registry: versions of models that classify raw videos, and the aliases that point to them."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from pipeline.errors import UserError
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
) -> Version:
    """Log ``folder`` as a pyfunc model of a run and register it as the next version of ``name``.

    Args:
        folder: the artifact folder that the model reads.
        model_code: the Python file that calls ``serve``; it is stored with the model and run when the model is loaded.
        code: package folders stored with the model, so that it loads without this project installed.
        requirements: pip requirements of prediction.
        tags: of the version (evaluation, digest, ...).
    """
    mlflow_client = client()
    # Only the fluent API packs code and requirements; it logs into the active run.
    mlflow.set_tracking_uri(address())
    with mlflow.start_run(run_id=tracking_run_id, log_system_metrics=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")
        # Warnings would ask for an input example, which would be a whole video; the rest is progress.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(model_code),
            artifacts={"model": str(folder)},
            code_paths=[str(path) for path in code],
            pip_requirements=list(requirements),
            signature=SIGNATURE,
            metadata=dict(tags),
        )
    try:
        mlflow_client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = mlflow_client.create_model_version(
        name, info.model_uri, tracking_run_id, tags=dict(tags), model_id=info.model_id
    )
    return Version(
        name=name, version=str(created.version), tracking_run_id=tracking_run_id, tags=dict(tags), aliases=()
    )


def aliased_version(name: str, alias: str) -> Version | None:
    """The version that an alias points to, or None."""
    try:
        found = client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return _version(found)


def set_alias(version: Version, alias: str) -> None:
    """Move an alias to a version."""
    client().set_registered_model_alias(version.name, alias, version.version)


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


def load_model(uri: str) -> Any:
    """A registered or logged model, ready to predict.

    MLflow puts the model's own copy of the packages first on ``sys.path``; packages that this process has imported
    already are used instead.

    Raises:
        UserError: the model, version or alias does not exist, or cannot be loaded.
    """
    mlflow.set_tracking_uri(address())
    try:
        return mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        raise UserError(
            f"cannot load {uri}: {str(error).splitlines()[0]}; use models:/NAME@ALIAS or models:/NAME/VERSION"
        ) from error
