"""What must hold of a disturbed run on a stack, by MLflow's history, the stored files and the process table."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch

from pipeline.config.stack import home
from pipeline.config.train import config_from_dict
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.runs.folder import read_run
from pipeline.runs.start_weights import first_model
from pipeline.storage import Storage, open_storage
from pipeline.tracking.runs import client
from tests.support.training_stack import TrainingStack

_SETTLE_S = 30.0
Weights = Mapping[str, torch.Tensor]
History = Mapping[str, Sequence[tuple[int, float]]]
"""Curve -> (step, seconds since 1970) of its points, as MLflow has them."""


def pages(run_id: str) -> list[Any]:
    """All MLflow runs of a run."""
    asked = client()
    experiments = [experiment.experiment_id for experiment in asked.search_experiments()]
    return [found for found in asked.search_runs(experiments) if found.info.run_name == run_id]


def history(run_id: str) -> History:
    """All curves of a run's first page."""
    found, asked = pages(run_id)[0], client()
    return {
        name: [(point.step, point.timestamp / 1000) for point in asked.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


class Points:
    """A run's pages and curves."""

    def __init__(self, run_id: str) -> None:
        self._pages, self._history = pages(run_id), history(run_id)

    def faults(self, epochs: int, steps: int, log_steps: int, *, like: History) -> list[str]:
        """More or less than one page, another state than FINISHED, curves with gaps or double points.

        Args:
            like: the curves of an undisturbed run.
        """
        states = [page.info.status for page in self._pages]
        faults = [] if states == ["FINISHED"] else [f"MLflow has {len(states)} runs, in the states {states}"]
        whole = epochs * steps
        expected = [step for step in range(1, whole + 1) if step % log_steps == 0 or step % steps == 0]
        for name in ("train/loss", "train/top1", "train/grad_norm", "train/lr", "train/clips_per_s"):
            found = [step for step, _ in self._history.get(name, ())]
            if found != expected:
                faults.append(f"{name}: missing {sorted(set(expected) - set(found))}, {_doubles(found)} double")
        for name, points in self._history.items():
            if not name.startswith("system/") and (doubles := _doubles([step for step, _ in points])):
                faults.append(f"{name}: {doubles} points at a step that has one")
        if missing := {name for name in like if name.startswith("train/")} - self._history.keys():
            faults.append(f"curves {sorted(missing)} are missing")
        return faults


def _doubles(steps: Sequence[int]) -> int:
    return len(steps) - len(set(steps))


def seconds_lost(points: Sequence[tuple[int, float]], at_s: Sequence[float]) -> list[float]:
    """What each event cost: the time until the next one (or the end), less the steps in it at the usual pace."""
    rates = [(b_s - a_s) / (b - a) for (a, a_s), (b, b_s) in itertools.pairwise(points) if b > a]
    step_s = statistics.median(rates)
    ends = [*at_s[1:], points[-1][1]]
    return [
        (end_s - start_s) - step_s * (_steps_at(points, end_s) - _steps_at(points, start_s))
        for start_s, end_s in zip(at_s, ends, strict=True)
    ]


def _steps_at(points: Sequence[tuple[int, float]], moment_s: float) -> float:
    """Steps done at a moment, between two points in proportion."""
    for (a, a_s), (b, b_s) in itertools.pairwise(points):
        if a_s <= moment_s <= b_s:
            return a + (b - a) * (moment_s - a_s) / max(b_s - a_s, 1e-9)
    return points[0][0] if moment_s < points[0][1] else points[-1][0]


def _final(run: Storage) -> str:
    return json.loads(run.read("result.json"))["checkpoint"]


def _weights(run: Storage, checkpoint: str) -> Weights:
    return safetensors.torch.load(run.read(f"{checkpoint}/model.safetensors"))


def final_weights(run: Storage) -> Weights:
    """Weights and buffers of a finished run."""
    return _weights(run, _final(run))


def largest_difference(ours: Weights, theirs: Weights) -> float:
    """Of any weight or buffer."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def distance_trained(run: Storage) -> float:
    """How far the weight that a finished run moved furthest is from where it began."""
    config = config_from_dict(read_run(run).config)
    classes = read_manifest(open_storage(config.data.uri)).classes
    torch.manual_seed(config.run.seed)
    return largest_difference(final_weights(run), first_model(config, len(classes), None).state_dict())


def keys_faults(data_uri: str, run: Storage, epochs: int) -> list[str]:
    """Epochs in which a key was used more or less than once."""
    storage = open_storage(data_uri)
    keys = dict.fromkeys((s.key for r in read_records(storage, read_manifest(storage), "train") for s in r.samples), 1)
    used = [Counter[str]() for _ in range(epochs)]
    for line in map(json.loads, run.read(f"{_final(run)}/samples-0000.jsonl").decode().splitlines()):
        used[line["epoch"]].update(line["keys"])
    return [f"epoch {epoch}: not every key once" for epoch, found in enumerate(used) if found != keys]


def left_behind(bench: TrainingStack, run: Storage) -> list[str]:
    """Processes, placement groups, leases, temporary files and credentials, once there was time to end."""
    deadline = time.monotonic() + _SETTLE_S
    while (found := _leftovers(bench, run)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found + _placement_groups(bench)


def _leftovers(bench: TrainingStack, run: Storage) -> list[str]:
    found = [f"process {p.pid} of a training" for p in (*bench.workers(), *bench.controllers())]
    found += [f"{run.uri}/{path}" for path in run.list(".lease-")]
    theirs = ("ray", "pymp-", "torchinductor_")  # Ray's own; sockets of multiprocessing; torch's cache
    found += [str(p) for p in bench.temporary.iterdir() if not p.name.startswith(theirs)]
    credentials = home() / "credentials"
    return found + ([str(p) for p in credentials.iterdir()] if credentials.exists() else [])


def _placement_groups(bench: TrainingStack) -> list[str]:
    import ray
    from ray.util import placement_group_table

    ray.init(address=bench.stack.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    finally:
        ray.shutdown()
    return [f"placement group {group['placement_group_id']} is {group['state']}" for group in groups]
