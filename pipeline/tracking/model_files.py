"""The files of a model on the tracking server, fetched without running anything of them.

    MLmodel, code/, model_code.py, *.yaml, requirements.txt     what ``mlflow.pyfunc.load_model`` runs and imports
    artifacts/FOLDER/                                           data: what the predictor reads

``mlflow.pyfunc.load_model`` runs whatever code lies there, and whoever may write to the registry decides what that is.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.common.digest import folder_sha256
from pipeline.config.stack import tracking_uri
from pipeline.errors import UserError
from pipeline.tracking.runs import address, client

_VERSION = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")
_DATA = "artifacts"
_ADDED = "registered_model_meta"  # by MLflow, when it downloads a whole model


def resolve(uri: str) -> tuple[str, str] | None:
    """Name and version number of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, as they are now; None for a URI
    of another form (``models:/m-ID``, ``runs:/...``, a folder).

    Raises:
        UserError: there is no such model, version or alias.
    """
    parts = _VERSION.fullmatch(uri)
    if parts is None:
        return None
    name, alias, number = parts.groups()
    try:
        if alias:
            return name, str(client().get_model_version_by_alias(name, alias).version)
        return name, str(client().get_model_version(name, number).version)
    except MlflowException as error:
        raise _unknown(uri, error) from error


def fetch_data(uri: str, most_bytes: Mapping[str, int], folder: Path) -> None:
    """Copy named files of a model's only folder of artifacts to the local ``folder``, and nothing else.

    Args:
        uri: as of ``resolve``, or ``models:/m-ID``, ``runs:/RUN/model``, or a local folder.
        most_bytes: by file name, the size up to which it is taken.

    Raises:
        UserError: there is no such model; it has no such file, or a larger one.
    """
    mlflow.set_tracking_uri(address())
    source = _source(uri)
    try:
        folders = [found for found in mlflow.artifacts.list_artifacts(f"{source}/{_DATA}") if found.is_dir]
        if len(folders) != 1:
            raise UserError(f"{uri} is no model of this project: it has {len(folders)} folders in {_DATA}/, not one")
        place = f"{source}/{_DATA}/{PurePosixPath(folders[0].path).name}"
        sizes = {PurePosixPath(found.path).name: found.file_size for found in mlflow.artifacts.list_artifacts(place)}
        for name, most in most_bytes.items():
            if name not in sizes:
                raise UserError(f"{uri} is no model of this project: it has no {_DATA}/*/{name}")
            _check_size(uri, name, sizes[name] or 0, most)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                found = mlflow.artifacts.download_artifacts(f"{place}/{name}", dst_path=temporary)
                _check_size(uri, name, Path(found).stat().st_size, most)
                shutil.copyfile(found, folder / name)
    except (MlflowException, OSError) as error:
        raise _unknown(uri, error) from error


def fetch_all(uri: str, folder: Path) -> Path:
    """Copy a whole model, its code included, to the local ``folder``; returns where it lies. Nothing of it is run."""
    mlflow.set_tracking_uri(address())
    try:
        return Path(mlflow.artifacts.download_artifacts(_source(uri), dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise _unknown(uri, error) from error


def code_digest(folder: Path) -> str:
    """sha256 of everything in a model's local folder but its data: what runs, and what decides that; see
    ``folder_sha256``.
    """
    return folder_sha256(folder, leave_out=(_DATA, _ADDED))


def _source(uri: str) -> str:
    """Where a registered version's files are; other URIs as they are."""
    version = resolve(uri)
    if version is None:
        return uri.rstrip("/")
    return client().get_model_version_download_uri(*version).rstrip("/")


def _check_size(uri: str, name: str, size: int, most: int) -> None:
    if size > most:
        raise UserError(f"{uri}: {name} has {size} bytes, more than the {most} of any model of this project")


def _unknown(uri: str, error: Exception) -> UserError:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    fix = "use models:/NAME@ALIAS or models:/NAME/VERSION"
    if tracking_uri() is None:
        fix += f". The registry is {address()}, because no local stack is up and MLFLOW_TRACKING_URI is not set:"
        fix += " python -m infra.local up if the model is the stack's"
    return UserError(f"cannot load {uri}: {line}; {fix}")
