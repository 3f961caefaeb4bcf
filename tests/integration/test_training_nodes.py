"""What happens to a training when ranks, nodes and its own command go: real Ray, several nodes on this machine.

All runs train the same with 2 to 4 ranks: frozen BatchNorm, every key logged. An undisturbed run of two is the oracle.
``tests.integration.chaos`` (by hand) does more to one run.
Other numbers of ranks add a step's gradients in another order. SGD keeps that rounding small over the 150 steps
(measured: 3e-5, of weights that move by 0.2); Adam divides by the gradients' size and grows it to 6e-3.
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
from tests.support.ray_trainings import Training, check_every_key_once_an_epoch, newest_step, weights

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node of two CPUs; tests add others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("home")))
        with ray_nodes(cpus=2) as found:
            yield found


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
    found = events(training.run)
    assert len(found) == 1, f"{found}\n{training.output}"
    (event,) = found
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


def test_a_lost_node_leaves_two_ranks_and_is_taken_in_again(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    more = ["--run.num-workers", "4", "--run.min-workers", "1", "--optim.epochs", "2000"]
    second = nodes.add()
    training = Training(nodes, tiny_set, tmp_path, "nodes", *more)
    training.until_step(10)
    nodes.lose(second)
    training.until(lambda: training.run.exists("events.jsonl"))
    second = nodes.add()
    try:
        training.until(lambda: len(events(training.run)) > 1)
        training.process.send_signal(signal.SIGINT)
        assert training.end(60) == 130, training.output
    finally:
        nodes.lose(second)
    down, up = events(training.run)[:2]
    assert (down["ranks_before"], down["ranks"]) == (4, 2)
    assert (up["ranks_before"], up["ranks"], up["why"], up["steps_lost"]) == (2, 4, "there is room for 4 ranks", 0)


def test_a_notice_of_preemption_makes_the_ranks_save_and_leave(
    nodes: Nodes, tiny_set: str, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
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
    found = weights(training.run)
    for name, tensor in undisturbed.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)


def test_a_run_without_enough_nodes_waits_for_them(nodes: Nodes, tiny_set: str, tmp_path: Path) -> None:
    training = Training(nodes, tiny_set, tmp_path, "waits", "--run.num-workers", "4", "--optim.epochs", "1")
    training.until(lambda: "waiting for 4 ranks of 1 CPU: the cluster has 2 CPUs on 1 node" in training.output)
    second = nodes.add()
    try:
        assert training.end() == 0, training.output
    finally:
        nodes.lose(second)
