"""Requests to MLflow that are sent once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_TIMEOUT_S = 20
_environment = threading.Lock()


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Each request is sent once and answered within seconds, or fails: MLflow's own repetitions would do again what
    was done and whose answer was lost, and hold up a command for minutes. Its client reads both from the environment.
    """
    names = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0, "MLFLOW_HTTP_REQUEST_TIMEOUT": _TIMEOUT_S}
    with _environment:
        before = {name: os.environ.get(name) for name in names}
        for name, most in names.items():
            given = before[name]
            os.environ[name] = str(min(most, int(given))) if given and given.isdigit() else str(most)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
