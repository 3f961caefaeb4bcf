"""What happens to a training when ranks, nodes and its own command go: real Ray, several nodes on this machine.

Frozen BatchNorm, every key logged; two ranks without Ray, to which nothing happens, are the oracle.
``tests.integration.chaos`` (by hand) does more to one run, and compares weights after other numbers of ranks.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.storage import Storage
from tests.support.ray_nodes import Nodes, ray_nodes
from tests.support.ray_trainings import Training, check_every_key_once_an_epoch, newest_step, undisturbed, weights

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


TWO = ("--run.num-workers", "2")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node of two CPUs; tests add others."""
    with ray_nodes(tmp_path_factory, 2) as found:
        yield found


def events(run: Storage) -> list[dict]:
    return [json.loads(line) for line in run.read("events.jsonl").decode().splitlines()]


@pytest.fixture(scope="module")
def expected(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return undisturbed(tiny_set, tmp_path_factory.mktemp("undisturbed"), 2, *TWO)


def check_equal(training: Training, expected: dict[str, torch.Tensor]) -> None:
    """It has ended with these weights, bit by bit."""
    found = weights(training.run)
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


def check_nothing_left(training: Training, folder: Path) -> None:
    """It has left no lease, no temporary file and, soon, no process."""
    assert list(training.run.list(".lease-")) == []
    assert list(folder.glob("reciprocal-*")) == []
    deadline = time.monotonic() + 20
    while training.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_rank_and_a_second_command_leave_the_weights_bit_by_bit(
    nodes: Nodes, tiny_set: str, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    training = Training(nodes, tiny_set, tmp_path, "killed", *TWO)
    training.until(lambda: bool(list(training.run.list(".lease-"))))
    second = Training(nodes, tiny_set, tmp_path, "killed", *TWO)
    assert second.end() == 2
    assert f"error: {training.run.uri} is being trained by" in second.output
    assert f"(process {training.process.pid}, since 20" in second.output
    training.until_step(20)
    training.workers()[-1].send_signal(signal.SIGKILL)
    assert training.end() == 0, training.output
    check_every_key_once_an_epoch(training)
    check_equal(training, expected)
    found = events(training.run)
    assert len(found) == 1, f"{found}\n{training.output}"
    (event,) = found
    assert (event["ranks_before"], event["ranks"]) == (2, 2)
    assert event["step"] >= 20
    assert 0 <= event["steps_lost"] <= 11  # a checkpoint every 10
    assert "Traceback" not in training.output


def test_signals_save_and_leave_nothing_behind(
    nodes: Nodes, tiny_set: str, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    patient = Training(nodes, tiny_set, tmp_path, "left", *TWO)
    patient.until_step(10)
    assert patient.actors("TrainController")
    assert patient.actors("DatasetManager") + patient.actors("AutoscalingCoordinator") == []  # jobs.train.trainer
    patient.process.send_signal(signal.SIGTERM)
    assert patient.end(60) == 143, patient.output
    left_at = newest_step(patient.run)
    assert left_at > 10
    assert "Traceback" not in patient.output
    assert patient.output.rstrip().endswith("run the same command again to continue"), patient.output
    check_nothing_left(patient, tmp_path)
    hasty = Training(nodes, tiny_set, tmp_path, "left", *TWO)
    hasty.until_step(left_at + 10)
    for worker in hasty.workers():
        worker.suspend()  # they cannot save
    hasty.process.send_signal(signal.SIGINT)
    hasty.until(lambda: "once more leaves at once" in hasty.output)
    hasty.process.send_signal(signal.SIGINT)
    assert hasty.end(20) == 130, hasty.output
    check_nothing_left(hasty, tmp_path)
    again = Training(nodes, tiny_set, tmp_path, "left", *TWO)
    assert again.end() == 0, again.output
    check_every_key_once_an_epoch(again)
    check_equal(again, expected)


@pytest.mark.long
def test_nodes_that_come_and_are_taken_away_change_the_number_of_ranks_and_no_key(
    nodes: Nodes, tiny_set: str, tmp_path: Path
) -> None:
    """A node that is lost without a word: ``tests.integration.chaos``."""
    options = "--run.num-workers 2 --run.min-workers 1 --run.cpus-per-worker 2 --run.max-failures 0 --optim.epochs 2000"
    training = Training(nodes, tiny_set, tmp_path, "nodes", *options.split())
    training.until_step(10)
    second = nodes.add()
    try:
        training.until(lambda: training.run.exists("events.jsonl"))
        nodes.give_notice(second, seconds=30)
        training.until(lambda: "is being taken away: the ranks save and leave" in training.output, 30)
        training.until(lambda: len(events(training.run)) > 1)
        training.process.send_signal(signal.SIGINT)
        assert training.end(60) == 130, training.output
    finally:
        nodes.lose(second)
    check_every_key_once_an_epoch(training, newest_step(training.run) // 5)
    up, down = events(training.run)[:2]
    assert (up["ranks_before"], up["ranks"], up["why"], up["steps_lost"]) == (1, 2, "there is room for 2 ranks", 0)
    assert (down["ranks_before"], down["ranks"], down["steps_lost"]) == (2, 1, 0)
    assert down["why"].endswith("is being taken away")


@pytest.mark.long
def test_a_run_without_enough_nodes_waits_for_them(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    options = "--run.num-workers 2 --run.cpus-per-worker 2 --optim.epochs 1"
    training = Training(nodes, tiny_set, tmp_path, "waits", *options.split())
    training.until(lambda: "waiting for 2 ranks of 2 CPUs: the cluster has 2 CPUs on 1 node" in training.output)
    second = nodes.add()
    try:
        assert training.end() == 0, training.output
    finally:
        nodes.lose(second)
