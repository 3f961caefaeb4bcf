"""What happens to a training when ranks, nodes and its own command go: real Ray, several nodes on this machine.

All runs train the same with 2 to 4 ranks: frozen BatchNorm, every key logged. An undisturbed run of two is the oracle.
Other numbers of ranks add a step's gradients in another order. SGD keeps that rounding small over the 150 steps
(measured: 3e-5, of weights that move by 0.2); Adam divides by the gradients' size and grows it to 6e-3.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.storage import Storage, open_storage
from tests.support.paths import ROOT
from tests.support.ray_nodes import Nodes, ray_nodes

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 30  # of 5 steps: long enough for what happens in the middle
SMALL = (
    "--model.width 0.125 --model.hidden 8 --model.adapted 8 --model.num-steps 4 --clip.num-frames 4 --clip.crop 32"
    " --clip.resize 32 --data.batch-size 4 --data.val-split= --run.log-samples --run.log-steps 50"
    " --optim.name sgd --run.freeze-batchnorm --run.checkpoint-steps 10"
    f" --run.checkpoint-epochs {EPOCHS} --optim.epochs {EPOCHS}"
).split()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node of two CPUs; tests add others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("home")))
        with ray_nodes(cpus=2) as found:
            yield found


class Training:
    """A ``jobs.train`` command that runs, and its run's folder."""

    def __init__(self, nodes: Nodes, data_uri: str, runs: Path, run_id: str, *more: str) -> None:
        self.run = open_storage(f"file://{runs}/{run_id}")
        self.data_uri, self._log = data_uri, runs / f"{run_id}-{time.monotonic_ns()}.log"
        runs.mkdir(exist_ok=True)
        command = ["rgb_demo", "--data.uri", data_uri, "--run.output", f"file://{runs}", "--run.run-id", run_id]
        env = {**nodes.env, "PYTHONPATH": str(ROOT), "TMPDIR": str(runs)}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.train", *command, *SMALL, *more], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

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
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any("RayTrainWorker" in part for part in process.info["cmdline"] or ()):
                with_home = process_home(process)
                if with_home == os.environ["RECIPROCAL_HOME"]:
                    found.append(process)
        return found


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
    storage = open_storage(training.data_uri)
    keys = [s.key for r in read_records(storage, read_manifest(storage), "train") for s in r.samples]
    name = json.loads(training.run.read("result.json"))["checkpoint"]
    lines = [json.loads(line) for line in training.run.read(f"{name}/samples-0000.jsonl").decode().splitlines()]
    for epoch in range(epochs):
        used = Counter(key for line in lines if line["epoch"] == epoch for key in line["keys"])
        assert used == dict.fromkeys(keys, 1), epoch


def events(run: Storage) -> list[dict]:
    return [json.loads(line) for line in run.read("events.jsonl").decode().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Final weights of two ranks that nothing happens to."""
    training = Training(nodes, tiny_set, tmp_path_factory.mktemp("undisturbed"), "u", "--run.num-workers", "2")
    assert training.end() == 0, training.output
    assert not training.run.exists("events.jsonl")
    return weights(training.run)


def test_a_killed_rank_leaves_the_weights_bit_by_bit(
    nodes: Nodes, tiny_set: str, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    training = Training(nodes, tiny_set, tmp_path, "killed", "--run.num-workers", "2")
    training.until_step(20)
    training.workers()[-1].send_signal(signal.SIGKILL)
    assert training.end() == 0, training.output
    check_every_key_once_an_epoch(training)
    found = weights(training.run)
    assert all(torch.equal(found[name], tensor) for name, tensor in undisturbed.items())
    (event,) = events(training.run)
    assert (event["ranks_before"], event["ranks"]) == (2, 2)
    assert event["step"] >= 20
    assert 0 <= event["steps_lost"] <= 11  # a checkpoint every 10
    assert "Traceback" not in training.output


def test_a_second_command_is_refused_and_changes_nothing(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    more = ["--run.num-workers", "2", "--optim.epochs", "10", "--run.checkpoint-epochs", "10"]
    first = Training(nodes, tiny_set, tmp_path, "twice", *more)
    first.until(lambda: bool(list(first.run.list(".lease-"))))
    second = Training(nodes, tiny_set, tmp_path, "twice", *more)
    assert second.end() == 2
    assert f"error: {first.run.uri} is being trained by" in second.output
    assert f"(process {first.process.pid}, since 20" in second.output
    assert first.end() == 0, first.output
    assert not first.run.exists("events.jsonl")
    check_every_key_once_an_epoch(first, epochs=10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves_nothing_behind(
    nodes: Nodes, tiny_set: str, tmp_path: Path, undisturbed: dict[str, torch.Tensor], number: int, code: int
) -> None:
    training = Training(nodes, tiny_set, tmp_path, "left", "--run.num-workers", "2")
    training.until_step(20)
    training.process.send_signal(number)
    assert training.end(60) == code, training.output
    left_at = newest_step(training.run)
    assert left_at > 20
    assert "Traceback" not in training.output
    assert training.output.rstrip().endswith("run the same command again to continue"), training.output
    assert list(training.run.list(".lease-")) == []
    assert list(tmp_path.glob("reciprocal-*")) == []
    deadline = time.monotonic() + 10
    while training.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = Training(nodes, tiny_set, tmp_path, "left", "--run.num-workers", "2")
    assert again.end() == 0, again.output
    check_every_key_once_an_epoch(again)
    found = weights(again.run)
    assert all(torch.equal(found[name], tensor) for name, tensor in undisturbed.items())


def test_a_second_ctrl_c_leaves_at_once(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    training = Training(nodes, tiny_set, tmp_path, "hasty", "--run.num-workers", "2")
    training.until_step(10)
    for worker in training.workers():
        worker.suspend()  # they cannot save
    training.process.send_signal(signal.SIGINT)
    training.until(lambda: "once more leaves at once" in training.output)
    training.process.send_signal(signal.SIGINT)
    assert training.end(20) == 130, training.output
    assert list(training.run.list(".lease-")) == []
    deadline = time.monotonic() + 20
    while training.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_lost_node_leaves_two_ranks_and_is_taken_in_again(
    nodes: Nodes, tiny_set: str, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    more = ["--run.num-workers", "4", "--run.min-workers", "1"]
    second = nodes.add()
    training = Training(nodes, tiny_set, tmp_path, "nodes", *more)
    training.until_step(10)
    nodes.lose(second)
    training.until(lambda: training.run.exists("events.jsonl"))
    second = nodes.add()
    try:
        assert training.end() == 0, training.output
    finally:
        nodes.lose(second)
    check_every_key_once_an_epoch(training)
    down, up = events(training.run)
    assert (down["ranks_before"], down["ranks"]) == (4, 2)
    assert (up["ranks_before"], up["ranks"], up["why"], up["steps_lost"]) == (2, 4, "there is room for 4 ranks", 0)
    found = weights(training.run)
    for name, tensor in undisturbed.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)


def test_a_notice_of_preemption_makes_the_ranks_save_and_leave(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    second = nodes.add()
    more = ["--run.num-workers", "4", "--run.min-workers", "2", "--run.max-failures", "0"]
    training = Training(nodes, tiny_set, tmp_path, "notice", *more)
    training.until_step(10)
    nodes.give_notice(second, seconds=30)
    training.until(lambda: "is being taken away: the ranks save and leave" in training.output, 10)
    training.until(lambda: training.run.exists("events.jsonl"))
    nodes.lose(second)
    assert training.end() == 0, training.output
    check_every_key_once_an_epoch(training)
    (event,) = events(training.run)
    assert (event["ranks_before"], event["ranks"], event["steps_lost"]) == (4, 2, 0)
    assert event["why"].endswith("is being taken away")


def test_a_run_without_enough_nodes_waits_for_them(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    training = Training(nodes, tiny_set, tmp_path, "waits", "--run.num-workers", "4", "--optim.epochs", "1")
    training.until(lambda: "waiting for 4 ranks of 1 CPU: the cluster has 2 CPUs on 1 node" in training.output)
    second = nodes.add()
    try:
        assert training.end() == 0, training.output
    finally:
        nodes.lose(second)
