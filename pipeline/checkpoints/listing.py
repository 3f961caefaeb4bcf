"""Which checkpoints a run's folder holds, and in which state they are."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import re
from collections.abc import Container, Sequence

from pipeline.checkpoints.record import RECORD, CheckpointRecord, read_record
from pipeline.common.strict_json import MAX_BYTES, JsonError, as_object, parse_json
from pipeline.errors import NotFoundError
from pipeline.storage import Storage

PREFIX = "checkpoint_"
SET_ASIDE = "set_aside.json"
"""Marker within a folder: why the checkpoint is no longer used."""
_NAME = re.compile(rf"{PREFIX}(\d{{9}})(?:-(\d+))?")
_OLDER_CODE = ("model.safetensors", "optimizer.pt", "state.json")  # what older code needed to resume


class State(enum.Enum):
    """Of a checkpoint, as its folder's listing shows; no file but ``files.json`` was read."""

    WHOLE = "whole"
    HALF = "half"
    """Its writer ended before ``files.json`` was written."""
    DAMAGED = "damaged"
    """``files.json`` cannot be read, or a file is missing or of another size."""
    SET_ASIDE = "set aside"
    UNVERIFIED = "unverified"
    """Of older code, which wrote no ``files.json``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint of a run."""

    name: str
    """Of its folder."""
    state: State
    order: tuple[int, int]
    """Steps taken, and how many folders of that step there were before."""
    files: tuple[str, ...]
    """Paths of all its objects, relative to the run."""
    record: CheckpointRecord | None = None
    problem: str = ""
    """Of a damaged one."""

    @property
    def usable(self) -> bool:
        """Whether there is hope that it can be loaded."""
        return self.state in (State.WHOLE, State.UNVERIFIED)


def folder_name(global_step: int, number: int = 1) -> str:
    """Of the checkpoint after so many steps; ``number`` counts the folders of that step, from 1."""
    return f"{PREFIX}{global_step:09d}" + (f"-{number}" if number > 1 else "")


def has_record(name: str) -> bool:
    """Whether a folder of that name was written by code that writes records: without one it is half a checkpoint."""
    return _NAME.fullmatch(name) is not None


def entries(run: Storage) -> list[Entry]:
    """All checkpoints of a run, newest first: one listing, and one small file each."""
    sizes: dict[str, dict[str, int]] = {}
    for path, size in run.list_sizes(PREFIX):
        folder, slash, file = path.partition("/")
        if slash:
            sizes.setdefault(folder, {})[file] = size
    found = (_entry(run, name, files) for name, files in sizes.items())
    return sorted(found, key=lambda entry: (entry.order, entry.name), reverse=True)


def _entry(run: Storage, name: str, sizes: dict[str, int]) -> Entry:
    match = _NAME.fullmatch(name)
    state, record, problem = State.HALF, None, ""
    if RECORD in sizes:
        state = State.WHOLE
        try:
            record = read_record(run.read(f"{name}/{RECORD}", MAX_BYTES), f"{run.uri}/{name}/{RECORD}")
            problem = size_problem(run, name, record, sizes)
        except JsonError as error:
            problem = str(error)
        except NotFoundError:  # just pruned by the run that writes it
            state = State.HALF
        if problem:
            state = State.DAMAGED
    elif not match and sizes.keys() >= set(_OLDER_CODE):
        state = State.UNVERIFIED
    if SET_ASIDE in sizes:
        state = State.SET_ASIDE
    steps = int(match[1]) if match else record.position.global_step if record else _steps(run, name, state)
    files = tuple(f"{name}/{file}" for file in sorted(sizes))
    number = int(match[2] or 1) if match else 0
    return Entry(name=name, state=state, order=(steps, number), files=files, record=record, problem=problem)


def size_problem(run: Storage, name: str, record: CheckpointRecord, sizes: dict[str, int]) -> str:
    """What a listing shows to be wrong with a checkpoint's files, or nothing."""
    for file in record.files:
        where, size = f"{run.uri}/{name}/{file.name}", sizes.get(file.name)
        if size is None:
            return f"{where} is missing"
        if size != file.size:
            return f"{where} has {size} bytes and was written with {file.size}"
    return ""


def _steps(run: Storage, name: str, state: State) -> int:
    """Steps taken, as ``state.json`` of older code says; -1 where it does not."""
    if state is State.UNVERIFIED:
        with contextlib.suppress(NotFoundError, JsonError, KeyError, TypeError, ValueError):
            where = f"{run.uri}/{name}/state.json"
            state_json = as_object(parse_json(run.read(f"{name}/state.json", MAX_BYTES), where), where)
            return int(state_json["position"]["global_step"])
    return -1


def best_of(
    found: Sequence[Entry], metric: str, states: Container[State] = (State.WHOLE,)
) -> tuple[Entry, float] | None:
    """The checkpoint with the best value of a metric measured at its position, and that value; of equals the earliest.
    The least is best for a loss, else the largest.

    Args:
        states: of the checkpoints that count.
    """
    sign = -1 if metric.rpartition("/")[2].startswith("loss") else 1
    best: tuple[Entry, float] | None = None
    for entry in reversed(found):
        if entry.state not in states or entry.record is None:
            continue
        value = entry.record.metrics.get(metric)
        if isinstance(value, int | float) and math.isfinite(value) and (best is None or sign * (value - best[1]) > 0):
            best = entry, float(value)
    return best
