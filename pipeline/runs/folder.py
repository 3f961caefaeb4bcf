"""The folder of a run: what identifies the run, whether it has finished, and its checkpoints.

OUTPUT/RUN_ID/run.json            written by the driver before any worker starts: config, data, code
OUTPUT/RUN_ID/checkpoint_*/       written by rank 0; pipeline.training.checkpoint describes the contents
OUTPUT/RUN_ID/result.json         written LAST: if it exists, the run has finished; names the final checkpoint
OUTPUT/RUN_ID/hangs/*/            reports of steps that hung; pipeline.training.hang describes them
OUTPUT/RUN_ID/evaluations/*.json  one report per split and protocol
OUTPUT/RUN_ID/journal/            what the run's MLflow page is to show (pipeline.tracking.journal)
OUTPUT/RUN_ID/events.jsonl        what happened to its ranks
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pipeline.checkpoints.store import CheckpointStore
from pipeline.common.printable import printable
from pipeline.common.strict_json import MAX_BYTES, JsonError, checked, parse_json, read_json
from pipeline.common.typed import Range, shown
from pipeline.config.renamed import new_name
from pipeline.config.train import TrainConfig, added_default, config_from_dict
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, NotFoundError, UserError
from pipeline.storage import Storage, join, open_storage
from pipeline.training.checkpoint import read_state

RUN, RESULT = "run.json", "result.json"
_LONGEST = 255  # names of files and parts of keys
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,120}")


def default_output(data_uri: str) -> str:
    """Folder of runs for a data set: ``s3://BUCKET/runs``, or ``runs`` next to a local data set."""
    if data_uri.startswith("s3://"):
        return join("s3://" + data_uri.removeprefix("s3://").split("/")[0], "runs")
    return data_uri.rstrip("/").rsplit("/", 1)[0] + "/runs"


def checkpoint_store(config: TrainConfig) -> CheckpointStore:
    """The checkpoints of a run whose config is complete."""
    run = open_storage(join(config.run.output, config.run.run_id))
    return CheckpointStore(run, keep=config.run.keep_checkpoints, keep_best=config.run.keep_best)


def default_run_id(config: TrainConfig, manifest_digest: str) -> str:
    """Recipe and 8 hex digits of a hash of config and data, so that the same command resumes the same run."""
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
        """The run's config. Raises UserError if it has fields that this code does not know."""
        try:
            return config_from_dict(self.config)
        except ConfigError as error:
            raise UserError(
                f"the run was made by code {self.code_version}, whose config this code cannot read ({error}): use that"
                " code"
            ) from error


def start_or_resume(run: Storage, record: RunRecord) -> bool:
    """Write ``run.json``, or check that the existing one is of the same run. Returns True if the run resumes.

    Raises:
        ConfigError: the run exists with another config or data set; names the first field that differs.
        UserError: its ``run.json`` is damaged.
    """
    try:
        old = read_run(run)
    except NotFoundError:
        run.write(RUN, json.dumps(dataclasses.asdict(record), sort_keys=True, indent=1).encode())
        return False
    if old.manifest_digest != record.manifest_digest:
        raise ConfigError(
            "data.uri",
            record.config["data"]["uri"],
            f"run {run.uri} was trained on manifest {old.manifest_digest[:12]}, this one is"
            f" {record.manifest_digest[:12]}; give another --run.run-id",
        )
    for field, ours, theirs in _differences(record.identity, old.identity):
        was = added_default(field) if theirs is None else theirs
        raise ConfigError(
            new_name(field),
            added_default(field) if ours is None else ours,
            f"run {run.uri} was started with {was!r}; give another --run.run-id",
        )
    return True


def _differences(ours: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) or isinstance(theirs, dict):
        ours, theirs = ours or {}, theirs or {}  # a whole section may have been added later
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(ours.get(key), theirs.get(key), f"{prefix}{key}.")
    elif ours != theirs:
        yield prefix.rstrip("."), ours, theirs


def check_run_id(run_id: str) -> None:
    """Refuse a new run's id that a folder, a URI, MLflow or a command line would have trouble with.

    Raises:
        ConfigError: it has other characters than letters, digits, - and _ of ASCII, or more than 120.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError("run.run_id", run_id[:_LONGEST], "use letters, digits, - and _, at most 120 of them")


def open_run(name: str) -> Storage:
    """Storage of a run, given by the URI of its folder or by its run id in the local stack's bucket.

    Raises:
        UserError: there is no such run.
    """
    run = open_storage(name if "://" in name else _find(name))
    if run.uri.startswith("s3://"):
        run.probe(write=False)  # a missing server or bucket is reported at once
    if not run.exists(RUN):
        raise UserError(f"{run.uri} is not a run: {RUN} is missing; give the folder that jobs.train printed")
    return run


def _find(run_id: str) -> str:
    from pipeline.config.stack import find_stack

    if not 0 < len(run_id) <= _LONGEST or run_id != printable(run_id) or set(run_id) & set("/\\") or ".." in run_id:
        raise UserError(
            f"{shown(run_id)} is no run id: give the id or the URI that jobs.train printed (a folder as file:///FOLDER)"
        )
    stack = find_stack()
    if stack is None:
        raise UserError(
            f"{run_id!r}: give the run's full URI (s3://... or file://...), since no local stack is recorded"
        )
    return f"s3://{stack.bucket}/runs/{run_id}"


def read_run(run: Storage) -> RunRecord:
    """``run.json`` of a run. Raises NotFoundError where there is none, and UserError where it is damaged."""
    data = run.read(RUN, MAX_BYTES)
    try:
        return read_json(RunRecord, data, f"{run.uri}/{RUN}", extra=True)
    except JsonError as error:
        raise UserError(f"{error}; restore it, or train again with another --run.run-id") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Result:
    """What must be in ``result.json``."""

    checkpoint: str
    metrics: dict[str, Any]
    seconds: Annotated[float, Range(0)]
    tracking_run_id: str


def read_result(run: Storage) -> dict[str, Any]:
    """``result.json``: {"checkpoint": folder, "metrics": {...}, "seconds": s, "tracking_run_id": id}.

    Raises:
        UserError: the run has not finished, or the file is damaged.
    """
    where, again = f"{run.uri}/{RESULT}", "run the same jobs.train command again"
    try:
        data = run.read(RESULT, MAX_BYTES)
    except NotFoundError as error:
        raise UserError(f"{run.uri} has not finished: {again} to resume it") from error
    try:
        result = parse_json(data, where)
        name = checked(_Result, result, where, extra=True).checkpoint
    except JsonError as error:
        raise UserError(f"{error}; remove it, and {again}, which writes it") from error
    if not name or set(name) & set("/\\\0") or name in (".", ".."):
        raise UserError(f"{where}: checkpoint = {name!r}: must be the name of a folder; remove it, and {again}")
    return result


@contextmanager
def fetched_checkpoint(
    run: Storage, name: str, only: tuple[str, ...] = ("model.safetensors", "state.json")
) -> Iterator[Path]:
    """A temporary local folder with the named files of a checkpoint, verified.

    Raises:
        UserError: one of them is not there, or has other bytes than were written.
    """
    with CheckpointStore(run).fetch(name, only) as folder:
        yield folder


def find_checkpoint(run: Storage, wanted: str, last: str) -> str:
    """The name of a finished run's checkpoint.

    Args:
        wanted: ``last``, ``best`` (by the run's ``run.keep_best``) or a name.
        last: name of the last one.

    Raises:
        ConfigError: there is no such checkpoint, or it is damaged.
    """
    if wanted in ("last", last):
        return last
    try:
        if wanted != "best":
            return CheckpointStore(run).named(wanted)
        with fetched_checkpoint(run, last, only=("state.json",)) as folder:
            # Of the last attempt's config: run.json has the first one's, and keep_best may have been given later.
            state = read_state(folder, ("config",))
        metric = state["config"].get("run", {}).get("keep_best", "")
        best = CheckpointStore(run, keep_best=metric).best()
    except UserError as error:
        words = "" if wanted == "best" else "; last and best name one, too"
        raise ConfigError("checkpoint", wanted, f"{error}{words}") from error
    if best is None:
        why = f"none was validated on {metric}" if metric else "it was trained without run.keep_best"
        raise ConfigError("checkpoint", wanted, f"{run.uri} has kept no best one: {why}; use last")
    return best[0].name


def check_same_data(record: RunRecord, manifest: Manifest, data_uri: str) -> None:
    """Raise ConfigError unless ``manifest`` is the one that the run was trained on."""
    if manifest.digest != record.manifest_digest:
        raise ConfigError(
            "data.uri",
            data_uri,
            f"manifest {manifest.digest[:12]} is not the run's {record.manifest_digest[:12]}: it is another data set or"
            " version of it",
        )
