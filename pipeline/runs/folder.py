"""A run's folder: what it is, where its newest checkpoint lies, whether it has finished.

OUTPUT/RUN_ID/run.json            written by the driver before any worker starts: config, data, code
OUTPUT/RUN_ID/checkpoint_*/       written by Ray Train (pipeline.training.checkpoint says what is in it)
OUTPUT/RUN_ID/result.json         written LAST: if it exists, the run finished; names the final checkpoint
OUTPUT/RUN_ID/evaluations/*.json  one report per split and protocol
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.renamed import new_name
from pipeline.config.train import TrainConfig, config_from_dict
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, NotFoundError, UserError
from pipeline.storage import Storage, join, open_storage

RUN, RESULT = "run.json", "result.json"


def default_output(data_uri: str) -> str:
    """Folder of runs for a data set: ``s3://BUCKET/runs``, or ``runs`` beside a local data set."""
    if data_uri.startswith("s3://"):
        return join("s3://" + data_uri.removeprefix("s3://").split("/")[0], "runs")
    return data_uri.rstrip("/").rsplit("/", 1)[0] + "/runs"


def default_run_id(config: TrainConfig, manifest_digest: str) -> str:
    """Recipe and 8 hex digits of (config, data): the same command goes on with the same run."""
    text = json.dumps([config.identity(), manifest_digest], sort_keys=True)
    return f"{(config.recipe or 'run').replace('_', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """``run.json``."""

    config: dict[str, Any]
    identity: dict[str, Any]
    manifest_digest: str
    code_version: str

    def train_config(self) -> TrainConfig:
        """The run's config. Raises UserError where it was written by code that had other fields."""
        try:
            return config_from_dict(self.config)
        except ConfigError as error:
            raise UserError(
                f"the run was made by code {self.code_version}, whose config this code cannot read ({error}): use that"
                " code"
            ) from error


def claim(run: Storage, record: RunRecord) -> bool:
    """Write ``run.json``, or check that the one there is the same run. Returns True where the run goes on.

    Raises:
        ConfigError: the run exists with another config or other data; names the first field that differs.
    """
    try:
        old = json.loads(run.read(RUN))
    except NotFoundError:
        run.write(RUN, json.dumps(dataclasses.asdict(record), sort_keys=True, indent=1).encode())
        return False
    if old["manifest_digest"] != record.manifest_digest:
        raise ConfigError(
            "data.uri",
            record.config["data"]["uri"],
            f"run {run.uri} was trained on manifest {old['manifest_digest'][:12]}, this one is"
            f" {record.manifest_digest[:12]}; give another --run.run-id",
        )
    for field, ours, theirs in _differences(record.identity, old["identity"]):
        raise ConfigError(
            new_name(field), ours, f"run {run.uri} was started with {theirs!r}; give another --run.run-id"
        )
    return True


def _differences(ours: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(ours.get(key), theirs.get(key), f"{prefix}{key}.")
    elif ours != theirs:
        yield prefix.rstrip("."), ours, theirs


def open_run(name: str) -> Storage:
    """Storage of a run given as a URI, or as a run id of the local stack's bucket (or ``AWS`` environment's).

    Raises:
        UserError: there is no such run.
    """
    run = open_storage(name if "://" in name else _find(name))
    if run.uri.startswith("s3://"):
        run.probe(write=False)  # a server or a bucket that is not there says so at once
    if not run.exists(RUN):
        raise UserError(f"{run.uri} is no run: {RUN} is missing; give the folder that jobs.train printed")
    return run


def _find(run_id: str) -> str:
    from pipeline.config.stack import find_stack

    stack = find_stack()
    if stack is None:
        raise UserError(f"{run_id!r}: give the run's whole URI (s3://... or file://...), no local stack is recorded")
    return f"s3://{stack.bucket}/runs/{run_id}"


def read_run(run: Storage) -> RunRecord:
    """``run.json`` of a run."""
    return RunRecord(**json.loads(run.read(RUN)))


def read_result(run: Storage) -> dict[str, Any]:
    """``result.json``: {"checkpoint": folder, "metrics": {...}, ...}. UserError where the run has not finished."""
    try:
        return json.loads(run.read(RESULT))
    except NotFoundError as error:
        raise UserError(f"{run.uri} has not finished: run the same jobs.train command again to go on") from error


@contextmanager
def fetched_checkpoint(
    run: Storage, name: str, only: tuple[str, ...] = ("model.safetensors", "state.json")
) -> Iterator[Path]:
    """The named files of a checkpoint in a temporary local folder."""
    with tempfile.TemporaryDirectory() as folder:
        for file in only:
            (Path(folder) / file).write_bytes(run.read(f"{name}/{file}"))
        yield Path(folder)


def check_same_data(record: RunRecord, manifest: Manifest, data_uri: str) -> None:
    """Refuse to evaluate or go on with data that the run was not trained on. Raises ConfigError."""
    if manifest.digest != record.manifest_digest:
        raise ConfigError(
            "data.uri",
            data_uri,
            f"manifest {manifest.digest[:12]} is not the run's {record.manifest_digest[:12]}: it is another data set or"
            " version",
        )
