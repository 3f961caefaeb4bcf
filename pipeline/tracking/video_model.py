"""What a registered model is to MLflow: a table with the bytes of videos in, labels and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

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
