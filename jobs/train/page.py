"""A run's page on the tracking server, as every command that touches the run finds or makes it."""

from __future__ import annotations

from typing import Literal

from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import UserError
from pipeline.runs.folder import RESULT, RunRecord, read_result, read_run
from pipeline.storage import Storage
from pipeline.tracking.entries import DataInput
from pipeline.tracking.page import RunPage
from pipeline.tracking.pages import page_record


def run_page_of(run: Storage, config: TrainConfig, record: RunRecord, *, dataset: str = "") -> RunPage:
    """The page of a run; nothing is sent yet.

    Args:
        config: the run's, complete.
        dataset: the data set's name, where it is known.
    """
    tags = {
        "kind": "train",
        "recipe": config.recipe,
        "manifest_digest": record.manifest_digest,
        **({"dataset": dataset} if dataset else {}),
        "run_uri": run.uri,
        "mlflow.source.git.commit": record.code_version,
        "mlflow.source.name": f"jobs.train {config.recipe}",
        "mlflow.source.type": "JOB",
    }
    finished = run.exists(RESULT)
    known = read_result(run)["tracking_run_id"] if finished else ""
    page = RunPage(run, page_record(config.run.experiment, config.run.run_id, record.config, tags, known))
    if finished:
        page.put_right("FINISHED")  # a command that was killed after its last write did not say so
    return page


def open_page(run: Storage) -> RunPage:
    """The page of a run of which only the folder is known. Raises UserError where that is damaged."""
    record = read_run(run)
    return run_page_of(run, record.train_config(), record)


def data_input(
    manifest: Manifest, uri: str, split: str, context: Literal["training", "validation", "evaluation"]
) -> DataInput:
    """A split of the data set at ``uri``, as a run's page lists it."""
    return DataInput(
        name=manifest.dataset,
        split=split,
        digest=manifest.digest,
        uri=uri,
        context=context,
        num_samples=manifest.split_sizes().get(split, 0),
        num_classes=len(manifest.classes),
    )


def tracking_run_of(run: Storage) -> str:
    """MLflow's id of a finished run's page, which has all of its journal.

    Raises:
        UserError: the tracking server has not taken it.
    """
    page = open_page(run)
    if not page.finish():
        raise UserError(f"the page of {run.uri} is not complete on the tracking server: try again when it answers")
    return page.tracking_run_id
