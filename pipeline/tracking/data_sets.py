"""Data sets as MLflow lists them on the pages of runs and models."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException

from pipeline.common.printable import printable
from pipeline.tracking.entries import DataInput
from pipeline.tracking.runs import client, is_refusal

log = logging.getLogger(__name__)


def log_data(tracking_run_id: str, found: Collection[DataInput]) -> None:
    """List splits of data sets as inputs of a run; MLflow knows them by name and digest, and adds none twice. A server
    that refuses them costs a warning.

    Raises:
        MlflowException: the server does not answer.
    """
    if not found:
        return
    try:
        client().log_inputs(tracking_run_id, datasets=[data_set(data) for data in found])
    except MlflowException as error:
        if not is_refusal(error):
            raise
        log.warning("MLflow refuses to list the run's data sets: %s", str(error).partition("\n")[0])


def data_set(data: DataInput) -> DatasetInput:
    """A split of a data set as an input of a run: its digest, where it lies, how many videos and classes it has."""
    return DatasetInput(
        dataset=Dataset(
            name=printable(data.shown_name),
            digest=data.shown_digest,
            source_type="s3" if data.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": printable(data.uri)}),
            profile=json.dumps(
                {"num_rows": data.num_samples, "num_classes": data.num_classes, "manifest_sha256": data.digest}
            ),
        ),
        tags=[InputTag("mlflow.data.context", data.context)],
    )
