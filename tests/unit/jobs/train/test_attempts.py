"""The driver's decisions, on a cluster and a clock of the test's own: what is expected is counted by hand."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import ray.exceptions

from jobs.cluster.nodes import Node
from jobs.train.attempts import Attempts, Ended
from jobs.train.events import Change, Changes
from jobs.train.leaving import Leaving
from jobs.train.ranks import Need
from pipeline.common.cli import Terminated
from pipeline.config.train import RunConfig
from pipeline.errors import ConfigError, StorageError, UserError
from tests.support.fake_cluster import FakeCluster, FakeGroup, node

LOST = ray.exceptions.ActorDiedError()
LIMITS = RunConfig(num_workers=4, min_workers=1, max_failures=2, wait_minutes=10, leave_s=20)


class Run:
    """One run of up to four ranks on a fake cluster: 40 steps of a second, a checkpoint every 10."""

    def __init__(
        self,
        nodes_at: Callable[[float], Sequence[Node]] = lambda s: [node("a", 4)],
        *,
        fixed: bool = False,
        limits: RunConfig = LIMITS,
        **groups: dict[int, Any],
    ) -> None:
        self.cluster = FakeCluster(nodes_at, fixed=fixed)
        self.leaving, self.changes, self.limits = Leaving(), list[Change](), limits
        self.leaving.patient = True
        self.options: dict[str, dict[int, Any]] = groups
        self.check: Callable[[], None] = lambda: None

    def start(self, number: int, ranks: int) -> FakeGroup:
        special = {name: values[number] for name, values in self.options.items() if number in values}
        return FakeGroup(self.cluster, ranks, self.cluster.saved, **{"last": 40, "every": 10, **special})

    def run(self) -> Ended:
        limits = self.limits
        need = Need(
            most=limits.num_workers,
            least=limits.min_workers or limits.num_workers,
            batch_size=8,
            cpus=1,
            spread=limits.spread,
        )
        return Attempts(
            need,
            self.cluster,
            self.start,
            saved=lambda: self.cluster.saved,
            changes=Changes(self.changes.append, self.cluster.now_s),
            leaving=self.leaving,
            check=lambda: self.check(),
            limits=limits,
        ).run()

    @property
    def ranks(self) -> list[int]:
        return [group.ranks for group in self.cluster.groups]


def test_a_run_that_nothing_stops_has_one_group_and_no_change() -> None:
    run = Run()
    assert run.run() == Ended(checkpoint="checkpoint_40")
    assert (run.ranks, run.changes) == ([4], [])


def test_a_lost_worker_is_replaced_and_what_it_cost_is_told() -> None:
    run = Run(error={1: LOST}, fails_at={1: 17})
    run.run()
    (change,) = run.changes
    assert (change.ranks_before, change.ranks, change.step, change.steps_lost) == (4, 4, 10, 7)
    assert change.seconds_lost == pytest.approx(7, abs=1)  # seven steps of a second are done again
    assert "a worker process died" in change.why
    assert str(change).startswith("4 -> 4 ranks at step 10: ")


def test_nodes_that_go_leave_fewer_ranks_and_come_back_at_a_checkpoint() -> None:
    """4 -> 2 when a node is lost at 15 s; it is back at 22 s, and the next checkpoint is that of step 20 or 30."""
    run = Run(
        lambda s: [node("a", 2), *([node("b", 2)] if not 15 <= s <= 22 else [])], error={1: LOST}, fails_at={1: 15}
    )
    run.run()
    assert run.ranks == [4, 2, 4]
    down, up = run.changes
    assert (down.ranks_before, down.ranks, down.step, down.steps_lost) == (4, 2, 10, 5)
    assert (up.ranks_before, up.ranks, up.steps_lost) == (2, 4, 0)
    assert up.why == "there is room for 4 ranks"
    assert up.step % 10 <= 4  # right after one


def test_ranks_on_nodes_of_their_own_do_not_grow_into_what_is_left_there() -> None:
    run = Run(lambda s: [node("a", 2), node("b", 2)], limits=RunConfig(num_workers=4, min_workers=1, spread=True))
    run.run()
    assert run.ranks == [2]


def test_no_ranks_are_taken_in_before_a_checkpoint_is_written() -> None:
    run = Run(lambda s: [node("a", 2), *([node("b", 2)] if s > 3 else [])])
    run.options["every"] = {1: 0}
    run.run()
    assert run.ranks == [2]


def test_a_notice_makes_the_ranks_save_and_leave_and_uses_up_no_failure() -> None:
    def nodes(s: float) -> list[Node]:
        return [node("a", 2), node("b", 2, leaves_at=99.0 if s > 5 else None)]

    run = Run(nodes, limits=RunConfig(num_workers=4, min_workers=1, max_failures=0))
    run.run()
    assert run.ranks == [4, 2]
    (change,) = run.changes
    assert change.steps_lost == 0
    assert change.why == "node b (10.0.0.1) is being taken away"


def test_a_node_that_goes_before_its_ranks_have_saved_uses_up_no_failure_either() -> None:
    run = Run(
        lambda s: [node("a", 2), *([node("b", 2, leaves_at=9.0 if s > 5 else None)] if s < 9 else [])],
        limits=RunConfig(num_workers=4, min_workers=1, max_failures=0),
        deaf={1: True},
        error={1: LOST},
        fails_at={1: 9},
    )
    run.run()
    assert run.ranks == [4, 2]


@pytest.mark.parametrize("error", [UserError("no such shard"), ValueError("x"), OSError(28, "No space left")])
def test_an_error_that_stays_is_not_tried_again(error: Exception) -> None:
    run = Run(error={1: error}, fails_at={1: 5})
    with pytest.raises(type(error)):
        run.run()
    assert run.ranks == [4]


def test_failures_in_a_row_without_a_checkpoint_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    error = StorageError("503 for 120 s")
    run = Run(error=dict.fromkeys(range(1, 9), error), fails_at=dict.fromkeys(range(1, 9), 7))
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):
        run.run()
    assert run.ranks == [4] * 3  # max_failures 2
    assert "503 for 120 s; going on from step 0 (2 of 2 in a row, run.max_failures)" in caplog.text


def test_a_checkpoint_sets_the_count_back() -> None:
    run = Run(error=dict.fromkeys(range(1, 4), LOST), fails_at={1: 12, 2: 22, 3: 32})
    run.limits = RunConfig(num_workers=4, min_workers=1, max_failures=1)
    assert run.run().checkpoint == "checkpoint_40"
    assert run.ranks == [4] * 4


def test_an_unknown_error_is_tried_once_more_at_the_same_step() -> None:
    error = RuntimeError("what is this")
    run = Run(error=dict.fromkeys(range(1, 9), error), fails_at=dict.fromkeys(range(1, 9), 7))
    run.limits = RunConfig(num_workers=4, min_workers=1, max_failures=5)
    with pytest.raises(RuntimeError):
        run.run()
    assert run.ranks == [4, 4]


def test_missing_nodes_are_waited_for_with_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(lambda s: [node("a", 4)] if s > 150 else [node("a", 1)], limits=RunConfig(num_workers=4))
    with caplog.at_level(logging.INFO):
        run.run()
    lines = [record.message for record in caplog.records if "waiting for" in record.message]
    assert lines == [
        f"waiting for 4 ranks of 1 CPU: the cluster has 1 CPU on 1 node; for up to {minutes} more minutes"
        " (run.wait_minutes)"
        for minutes in (10, 9, 8)
    ]
    assert {need.most for need in run.cluster.wanted} == {4}
    assert run.ranks == [4]


def test_nodes_that_do_not_come_end_the_run_with_the_fix() -> None:
    run = Run(lambda s: [node("a", 2)], limits=RunConfig(num_workers=4, wait_minutes=2))
    with pytest.raises(ConfigError) as refused:
        run.run()
    assert str(refused.value) == (
        "run.num_workers = 4: 4 ranks of 1 CPU are more than the cluster's 2 CPUs on 1 node after 2 minutes"
        " (run.wait_minutes); lower it or run.cpus_per_worker, or add nodes; 2 would fit: run.min_workers 2 allows that"
    )
    assert 120 <= run.cluster.clock <= 122


def test_a_private_ray_is_not_waited_for() -> None:
    run = Run(lambda s: [node("a", 2)], limits=RunConfig(num_workers=4), fixed=True)
    with pytest.raises(ConfigError, match="more than the cluster's 2 CPUs on 1 node; lower it"):
        run.run()
    assert run.cluster.clock == 0


def test_what_others_use_is_waited_for_without_end(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(lambda s: [node("a", 4, free=4 if s > 3000 else 0)], limits=RunConfig(num_workers=4, wait_minutes=1))
    with caplog.at_level(logging.INFO):
        run.run()
    assert "the cluster's 4 CPUs on 1 node are in use by python -m jobs.train other (2 CPUs)" in caplog.text


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_saves_and_leaves(number: int, kind: type[BaseException]) -> None:
    run = Run()
    run.check = lambda: run.leaving.receive(number) if run.cluster.clock == 12.5 else None
    with pytest.raises(KeyboardInterrupt) as stop:
        run.run()
    assert type(stop.value) is kind
    assert 12 <= run.cluster.saved <= 14
    assert not run.cluster.groups[0].killed
    (change,) = run.changes
    assert (change.ranks, change.why) == (0, "the command was asked to end")


def test_ranks_that_do_not_leave_in_time_are_ended() -> None:
    run = Run(deaf={1: True})
    run.check = lambda: run.leaving.receive(signal.SIGINT) if run.cluster.clock == 5 else None
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.cluster.groups[0].killed
    assert 25 <= run.cluster.clock <= 26.5  # leave_s 20


def test_a_second_signal_leaves_at_once() -> None:
    run = Run(deaf={1: True})
    run.check = lambda: run.leaving.receive(signal.SIGINT) if run.cluster.clock in (5, 7) else None
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.cluster.groups[0].killed
    assert run.cluster.clock == 7


def test_a_lost_lease_ends_the_ranks() -> None:
    class LostError(Exception):
        pass

    def check() -> None:
        if run.cluster.clock > 8:
            raise LostError

    run = Run()
    run.check = check
    with pytest.raises(LostError):
        run.run()
    assert run.cluster.groups[0].killed
