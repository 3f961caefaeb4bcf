"""``jobs.train`` commands that run on a Ray of several nodes, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import safetensors.torch
import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.storage import Storage, open_storage
from tests.support.paths import ROOT
from tests.support.ray_nodes import Nodes
from tests.support.without_ray import trained

EPOCHS = 40  # of 5 steps: long enough for what happens in the middle
SMALL = (
    "--model.width 0.125 --model.hidden 8 --model.adapted 8 --model.num-steps 4 --clip.num-frames 4 --clip.crop 32"
    " --clip.resize 32 --data.batch-size 4 --data.val-split= --run.log-samples --run.log-steps 50"
    " --optim.name sgd --run.freeze-batchnorm --run.checkpoint-steps 10"
    f" --run.checkpoint-epochs {EPOCHS} --optim.epochs {EPOCHS}"
).split()


class Training:
    """A ``jobs.train`` command that runs, and its run's folder.

    Args:
        runs: folder of runs, logs and temporary files.
        output: of runs, where that is another place.
        env: variables besides those of ``nodes``.
    """

    def __init__(
        self,
        nodes: Nodes,
        data_uri: str,
        runs: Path,
        run_id: str,
        *more: str,
        output: str = "",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        output = output or f"file://{runs}"
        self.run = open_storage(f"{output}/{run_id}")
        self.data_uri, self._log = data_uri, runs / f"{run_id}-{time.monotonic_ns()}.log"
        runs.mkdir(exist_ok=True)
        command = ["rgb_demo", "--data.uri", data_uri, "--run.output", output, "--run.run-id", run_id]
        variables = {**nodes.env, "PYTHONPATH": str(ROOT), "TMPDIR": str(runs), **env}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.train", *command, *SMALL, *more],
                cwd=ROOT,
                env=variables,
                stdout=log,
                stderr=log,
            )

    @property
    def output(self) -> str:
        """All that it has printed, but what an actor of Ray Train says every second of a Ray without a dashboard."""
        lines = self._log.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if "(PlacementGroupCleaner pid=" not in line)

    def until(self, holds: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait for something, while the command runs."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def until_step(self, step: int) -> None:
        """Until a checkpoint of that step or a later one is stored."""
        self.until(lambda: newest_step(self.run) >= step)

    def end(self, timeout_s: float = 150) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout_s)

    def workers(self) -> list[psutil.Process]:
        """Processes of the ranks, whichever run they belong to."""
        return self.actors("RayTrainWorker")

    def actors(self, name: str) -> list[psutil.Process]:
        """Processes of the actors of this class, whichever run they belong to."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(name in part for part in process.info["cmdline"] or ()):
                with_home = process_home(process)
                if with_home == os.environ["RECIPROCAL_HOME"]:
                    found.append(process)
        return found


def undisturbed(data_uri: str, folder: Path, ranks: int, *more: str) -> dict[str, torch.Tensor]:
    """Final weights of the same command's run that nothing happens to, trained without Ray."""
    return trained(["rgb_demo", "--data.uri", data_uri, *SMALL, *more], folder, ranks)


def process_home(process: psutil.Process) -> str:
    try:
        return process.environ().get("RECIPROCAL_HOME", "")
    except psutil.Error:
        return ""


def newest_step(run: Storage) -> int:
    return next((entry.order[0] for entry in CheckpointStore(run).entries() if entry.usable), -1)


def weights(run: Storage) -> dict[str, torch.Tensor]:
    name = json.loads(run.read("result.json"))["checkpoint"]
    return safetensors.torch.load(run.read(f"{name}/model.safetensors"))


def check_every_key_once_an_epoch(training: Training, epochs: int = EPOCHS) -> None:
    """In the first so many epochs, as the newest checkpoint has recorded them."""
    storage = open_storage(training.data_uri)
    keys = [s.key for r in read_records(storage, read_manifest(storage), "train") for s in r.samples]
    name = next(entry.name for entry in CheckpointStore(training.run).entries() if entry.usable)
    lines = [json.loads(line) for line in training.run.read(f"{name}/samples-0000.jsonl").decode().splitlines()]
    for epoch in range(epochs):
        used = Counter(key for line in lines if line["epoch"] == epoch for key in line["keys"])
        assert used == dict.fromkeys(keys, 1), epoch
