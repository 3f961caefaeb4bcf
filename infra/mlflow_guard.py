"""What the stack's MLflow server lets in; loaded by the server itself, through the configuration of its basic-auth app.

Passwords are checked by MLflow. On top of that, whoever is let in cannot choose where files lie: an experiment with an
artifact location, or a model version with a source, of somebody's choice would make the server read and write there
with this user's rights and keys. The server keeps everything below its own ``--artifacts-destination``, and

* a request that names another place is refused, because clients would go there as well, and
* the server opens no other place, whoever wrote it into the database: no local folder at all, so no symbolic link
  either, and no other bucket or prefix.
"""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Callable
from typing import Any

from flask import Response, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.server.auth import authenticate_request_basic_auth
from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from werkzeug.datastructures import Authorization

# How requests name a place, as the end of their path and the field in both spellings that MLflow reads, and the schemes
# that lead to the server's own store. MLflow itself refuses a model version whose source is a local folder.
_PLACES = {
    "/mlflow/experiments/create": (("artifact_location", "artifactLocation"), ("mlflow-artifacts",)),
    "/mlflow/model-versions/create": (("source",), ("mlflow-artifacts", "runs", "models", "")),
}
_LEAD_ELSEWHERE = ("runs", "models", "mlflow-artifacts")  # MLflow looks these up, and asks again with what it finds


def authenticate_request() -> Authorization | Response:
    """MLflow's own check, and for whoever passes it, that of the places a request names."""
    answer = authenticate_request_basic_auth()
    return answer if isinstance(answer, Response) else _refusal() or answer


def _refusal() -> Response | None:
    for path, (fields, schemes) in _PLACES.items():
        if request.path.endswith(path):
            body = request.get_json(force=True, silent=True)
            for field in fields:
                value = body.get(field) if isinstance(body, dict) else None
                if value and not _is_own(str(value), schemes):
                    text = f"{field} = {value!r}: leave it out; this server keeps all artifacts in its own store"
                    error = MlflowException(text, error_code=INVALID_PARAMETER_VALUE)
                    return Response(error.serialize_as_json(), status=400, mimetype="application/json")
    return None


def _is_own(uri: str, schemes: tuple[str, ...]) -> bool:
    parts = urllib.parse.urlsplit(uri)
    return parts.scheme in schemes and not parts.netloc


def keep_to(root: str) -> None:
    """Make this process open artifact stores at ``root`` and below it, and no others."""
    stores: dict[str, Any] = get_registered_artifact_repositories()
    for scheme, make in list(stores.items()):
        if scheme not in _LEAD_ELSEWHERE:
            stores[scheme] = functools.partial(_open, make, root.rstrip("/"))


def _open(make: Callable[..., Any], root: str, artifact_uri: str, **more: Any) -> Any:
    steps = urllib.parse.unquote(artifact_uri).split("/")
    if ".." in steps or not f"{artifact_uri}/".startswith(f"{root}/"):
        raise MlflowException(
            f"artifacts at {artifact_uri} are not served: this server keeps all artifacts in its own store",
            error_code=INVALID_PARAMETER_VALUE,
        )
    return make(artifact_uri, **more)


keep_to(os.environ[ARTIFACTS_DESTINATION_ENV_VAR])
