"""Pages of the tracking server that belong together: where a data set was made, what was trained on it, versions.

Addresses begin with ``#``, so that they lead on from whatever address the page was opened at.
"""

from __future__ import annotations

import dataclasses
import urllib.parse

from mlflow.entities import ViewType

from pipeline.tracking.runs import client

NOTE = "mlflow.note.content"
"""Tag that a page shows as its description."""
PREPROCESSING = "preprocessing"
"""Experiment of the runs of jobs.preprocess."""
DATA_TAG = "reciprocal.data"
"""Tag of such a run: the URI of the data set that it made."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A page, and what it is to the one that links to it."""

    what: str
    text: str
    address: str


def run_address(experiment_id: str, tracking_run_id: str) -> str:
    """Of a run's page."""
    return f"#/experiments/{experiment_id}/runs/{tracking_run_id}"


def runs_address(experiment_id: str, tag: str, value: str) -> str:
    """Of an experiment's runs that have a tag, finished ones and those to come."""
    found = urllib.parse.quote(f"tags.`{tag}` = '{value}'")
    return f"#/experiments/{experiment_id}/runs?searchFilter={found}"


def version_address(name: str, number: str) -> str:
    """Of a version's page."""
    return f"#/models/{urllib.parse.quote(name)}/versions/{number}"


def link_preprocessing(data_uri: str, manifest_digest: str, tracking_run_id: str) -> list[Link]:
    """The page of the run of jobs.preprocess that made a data set; that page gets a link to the trainings on it.

    Raises:
        MlflowException: the server does not answer.
    """
    asked = client()
    experiment = asked.get_experiment_by_name(PREPROCESSING)
    if experiment is None or "'" in data_uri:
        return []
    query = f"tags.`{DATA_TAG}` = '{data_uri.rstrip('/')}'"
    found = asked.search_runs(
        [experiment.experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1, order_by=["attributes.start_time DESC"]
    )
    if not found:
        return []
    made = found[0]
    own = asked.get_run(tracking_run_id).info.experiment_id
    link = f"[Runs on this data set]({runs_address(own, 'manifest_digest', manifest_digest)})"
    note = made.data.tags.get(NOTE, "")
    if link not in note:
        asked.set_tag(made.info.run_id, NOTE, f"{note}\n\n{link}".strip())
    address = run_address(experiment.experiment_id, made.info.run_id)
    return [Link("Data set made by", made.info.run_name or made.info.run_id, address)]


def link_versions(tracking_run_id: str) -> list[Link]:
    """The versions that were registered from a run. Raises MlflowException."""
    found = client().search_model_versions(f"run_id = '{tracking_run_id}'")
    return [
        Link("Registered as", f"{v.name} version {v.version}", version_address(v.name, str(v.version)))
        for v in sorted(found, key=lambda v: (v.name, int(v.version)))
    ]


def describe_page(tracking_run_id: str, text: str) -> None:
    """Set the description of a run's page. Raises MlflowException."""
    client().set_tag(tracking_run_id, NOTE, text)
