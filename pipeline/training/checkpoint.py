"""What a checkpoint holds, and how it is read back.

    model.safetensors     weights and running statistics (pipeline.training.ema: or their moving average)
    optimizer.pt          optimiser and scheduler (tensors and numbers: loads with weights_only)
    state.json            position, config, manifest digest, classes, code version
    samples-0000.jsonl    with run.log_samples: keys of every step since the run began, of all ranks (``StepKeys``);
                          older code wrote a file for each rank
    files.json            sizes and sha256 of the others, written last (pipeline.checkpoints.record)

The position is two numbers, epoch and step: the order of samples, their augmentation, the drawn supervision steps
and dropout all follow from (seed, epoch, step), so there is no other random state to keep. That also lets a run resume
with another number of ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline.checkpoints.record import Position
from pipeline.common.strict_json import JsonError, as_object, checked, parse_json, read_json
from pipeline.common.typed import Count, shown
from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.training.host_copies import HostCopies

CHECKPOINT_VERSION = 1
WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a checkpoint holds besides weights, so that it can be evaluated and registered on its own."""

    config: TrainConfig
    manifest_digest: str
    dataset: str
    classes: tuple[str, ...]
    stored: dict[str, Any]  # preprocessing parameters of the data set: prediction repeats them
    code_version: str
    run_id: str
    tracking_run_id: str = ""

    def state(self) -> dict[str, Any]:
        """As ``state.json`` holds them: JSON-ready, with the part of the config that a resumed run may not change."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "config": as_dict(self.config), "identity": self.config.identity()}


def save_main(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    position: Position,
    facts: RunFacts,
    metrics: dict[str, float],
) -> None:
    """Write weights, optimiser and ``state.json`` of a checkpoint."""
    snapshot(HostCopies(), model, optimizer, scheduler, position, facts, metrics)(folder)


def snapshot(
    copies: HostCopies,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    position: Position,
    facts: RunFacts,
    metrics: dict[str, float],
) -> Callable[[Path], None]:
    """Copy what ``save_main`` writes; the function that is returned writes it, while training goes on.

    Args:
        copies: keeps the memory; one snapshot at a time may be in use.
    """
    weights = {
        name: copies.copy(tensor, f"model.{name}", contiguous=True) for name, tensor in model.state_dict().items()
    }
    progress = copies.copy({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, "progress")
    state = {
        "version": CHECKPOINT_VERSION,
        "position": dataclasses.asdict(position),
        "metrics": dict(metrics),
        **facts.state(),
    }
    copies.settle()

    def write(folder: Path) -> None:
        safetensors.torch.save_file(weights, folder / WEIGHTS)
        torch.save(progress, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(state, sort_keys=True, indent=1))

    return write


def save_samples(folder: Path, rank: int, lines: list[str]) -> None:
    """Write keys, one JSON line per step and rank."""
    (folder / f"samples-{rank:04d}.jsonl").write_text("".join(f"{line}\n" for line in lines))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepKeys:
    """One line of ``samples-*.jsonl``: what a rank trained on in a step. ``ranks`` is 0 in lines of older code."""

    epoch: Count
    step: Count
    keys: tuple[str, ...]
    rank: Count = 0
    ranks: Count = 0


def audit_samples(folder: Path) -> list[str]:
    """What is missing in the keys of a checkpoint of a run with ``run.log_samples``: steps, and ranks in a step.

    Lines of older code do not say how many ranks there were: of these, only steps without any line are found.
    """
    found: dict[tuple[int, int], set[int]] = {}
    expected: dict[tuple[int, int], int] = {}
    for path in sorted(folder.glob("samples-*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                keys = read_json(StepKeys, line, f"{path.name}:{number}")
            except JsonError as error:
                return [str(error)]
            found.setdefault((keys.epoch, keys.step), set()).add(keys.rank)
            expected[keys.epoch, keys.step] = keys.ranks
    problems = [
        f"epoch {epoch} step {step}: keys of rank {', '.join(map(str, missing))} of {expected[epoch, step]} are missing"
        for (epoch, step), ranks in sorted(found.items())
        if (missing := sorted(set(range(expected[epoch, step])) - ranks))
    ]
    steps = read_state(folder, ("position",))["position"]["global_step"]
    if len(found) != steps:
        problems.append(f"keys of {len(found)} steps, but {steps} were taken")
    return problems


def read_samples(folder: Path) -> list[str]:
    """All ranks' lines of a checkpoint."""
    return [line for path in sorted(folder.glob("samples-*.jsonl")) for line in path.read_text().splitlines()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    """Types of what ``state.json`` holds."""

    classes: tuple[str, ...]
    position: Position = dataclasses.field(default_factory=Position)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    stored: dict[str, Any] = dataclasses.field(default_factory=dict)
    manifest_digest: str = ""
    dataset: str = ""
    code_version: str = ""
    run_id: str = ""


def read_state(folder: Path, need: Sequence[str] = ()) -> dict[str, Any]:
    """state.json of a checkpoint.

    Args:
        need: fields that must be there, besides the classes.

    Raises:
        UserError: there is none of this version, or it is damaged.
    """
    where = f"{folder}/state.json"
    try:
        state = as_object(parse_json((folder / "state.json").read_bytes(), where), where)
        if state.get("version") != CHECKPOINT_VERSION:
            raise UserError(
                f"checkpoint version {shown(state.get('version'))} of {folder}: this code reads {CHECKPOINT_VERSION}"
            )
        checked(_State, state, where, extra=True)
        if missing := [name for name in need if name not in state]:
            raise JsonError(f"{where}: {', '.join(missing)} is missing")
    except (OSError, JsonError) as error:
        raise UserError(f"{folder} is not a checkpoint: {error}; restore it, or train again") from error
    return state


def read_weights(folder: Path, file: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The tensors of ``model.safetensors`` or another file of weights. Raises UserError."""
    try:
        return safetensors.torch.load_file(folder / file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder / file} is not a file of weights: {error}; restore it, or train again") from error


def load_weights(folder: Path, model: torch.nn.Module, file: str = WEIGHTS) -> None:
    """Load a file of weights strictly. Raises UserError naming the first keys that do not fit."""
    weights = read_weights(folder, file)
    expected = model.state_dict()
    wrong = [name for name in expected if name not in weights or weights[name].shape != expected[name].shape]
    extra = [name for name in weights if name not in expected]
    if wrong or extra:
        raise UserError(
            f"weights of {folder} do not fit the model: missing or of another shape {wrong[:3]}, unknown {extra[:3]}"
        )
    model.load_state_dict(weights)


def check_readable(folder: Path) -> None:
    """Raise UserError unless the files that a run resumes from can be read: all that can be said of older code's."""
    read_state(folder, ("position", "metrics"))
    read_weights(folder)
    _read_progress(folder)


def load_main(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> Position:
    """Restore everything ``save_main`` wrote; returns the position to resume from."""
    state = read_state(folder, ("position", "metrics"))
    load_weights(folder, model)
    with _progress_errors(folder):
        saved = _read_progress(folder)
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
    return Position(**state["position"])


def _read_progress(folder: Path) -> dict[str, Any]:
    with _progress_errors(folder):
        return torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")


@contextlib.contextmanager
def _progress_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    # What torch and pickle raise for a file that is cut off or is another's.
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        detail = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder / 'optimizer.pt'} is not this model's optimiser ({type(error).__name__}: {detail}); restore it,"
            " or train again with another --run.run-id"
        ) from error
