"""``run_tasks`` on a fake of Ray that ends tasks in an order of the test's choice."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import ray
import ray.exceptions
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import submit
from jobs.cluster.submit import run_tasks


class FakeRay:
    """Tasks end one at a time, in random order; every third wait times out first."""

    exceptions = ray.exceptions

    def __init__(self, seed: int = 0, cores: int = 0) -> None:
        self._random, self._cores, self._waits = random.Random(seed), cores, 0
        self.results: dict[int, Any] = {}
        self.in_flight = self.most_in_flight = 0
        self.cancelled: dict[int, bool] = {}
        self.timeouts: list[float | None] = []
        self.ended: set[int] = set()

    def start(self, result: Any) -> int:
        self.results[len(self.results)] = result
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return len(self.results) - 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self._cores)}

    def wait(self, tasks: list[int], timeout: float | None, num_returns: int = 1) -> tuple[list[int], list[int]]:
        assert num_returns == 1
        if timeout == 0:  # a look
            return [task for task in tasks if task in self.ended], [task for task in tasks if task not in self.ended]
        self.timeouts.append(timeout)
        self._waits += 1
        if timeout is not None and self._waits % 3 == 0:
            return [], tasks
        ended = self._random.choice(tasks)
        self.in_flight -= 1
        self.ended.add(ended)
        return [ended], [task for task in tasks if task != ended]

    def get(self, task: int) -> Any:
        if isinstance(self.results[task], Exception):
            raise self.results[task]
        return self.results[task]

    def cancel(self, task: int, *, force: bool) -> None:
        self.cancelled[task] = force


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def make(**kwargs: int) -> FakeRay:
        fake = FakeRay(**kwargs)
        monkeypatch.setattr(submit, "ray", fake)
        return fake

    return make


@given(count=st.integers(0, 40), most=st.integers(1, 9), seed=st.integers(0, 1000))
def test_every_item_comes_once_with_its_own_outcome_and_the_bound_holds(count: int, most: int, seed: int) -> None:
    fake = FakeRay(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "ray", fake)
        found = dict(run_tasks(range(count), lambda item: fake.start(item * item), in_flight=most))
    assert found == {item: item * item for item in range(count)}
    assert fake.most_in_flight == min(count, most)
    assert fake.cancelled == {}


def test_items_are_taken_only_as_there_is_room(install: Callable[..., FakeRay]) -> None:
    fake, taken = install(), []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    with contextlib.closing(run_tasks(items(), fake.start, in_flight=5)) as outcomes:
        next(outcomes)
        assert len(taken) == 5
        next(outcomes)
        assert len(taken) == 6


def test_an_error_of_ray_is_an_outcome_and_the_others_continue(install: Callable[..., FakeRay]) -> None:
    fake, error = install(), ray.exceptions.WorkerCrashedError()
    found = dict(run_tasks(range(6), lambda item: fake.start(error if item == 2 else item)))
    assert found == {0: 0, 1: 1, 2: error, 3: 3, 4: 4, 5: 5}


def test_an_item_may_be_submitted_again_and_goes_first(install: Callable[..., FakeRay]) -> None:
    fake, again, started = install(), deque[str](), []

    def start(item: str) -> int:
        started.append(item)
        return fake.start(len(started))

    found = []
    for item, number in run_tasks(["a", "b", "c"], start, in_flight=1, again=again):
        found.append((item, number))
        if (item, number) in (("a", 1), ("c", 4)):
            again.append(item)
    assert found == [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("c", 5)]


@pytest.mark.parametrize("force", [False, True])
def test_closing_cancels_what_is_in_flight(install: Callable[..., FakeRay], force: bool) -> None:
    fake = install()
    with contextlib.closing(run_tasks(range(9), fake.start, in_flight=4, force_cancel=force)) as outcomes:
        first, _ = next(outcomes)
    assert first in fake.ended
    assert fake.cancelled == {task: force for task in range(4) if task not in fake.ended}


def test_a_task_that_ends_before_it_is_cancelled_is_left_alone(install: Callable[..., FakeRay]) -> None:
    """Ray may abort the process where a cancel meets the end of its task."""
    fake = install(seed=1)
    with contextlib.closing(run_tasks(range(9), fake.start, in_flight=4)) as outcomes:
        next(outcomes)
    assert len(fake.ended) == 2, "one was taken, another ended during the wait before the cancels"
    assert fake.cancelled.keys() == set(range(4)) - fake.ended


def test_an_error_while_submitting_cancels_what_is_in_flight(install: Callable[..., FakeRay]) -> None:
    fake = install()

    def start(item: int) -> int:
        if item == 2:
            raise OSError("cannot be pickled")
        return fake.start(item)

    with pytest.raises(OSError, match="cannot be pickled"):
        list(run_tasks(range(5), start))
    assert fake.cancelled.keys() == {0, 1} - fake.ended
    assert fake.cancelled.keys(), "not all had ended"


def test_waiting_is_called_also_when_nothing_ends(install: Callable[..., FakeRay]) -> None:
    fake, calls = install(), []
    list(run_tasks(range(6), fake.start, waiting=lambda: calls.append(1), waiting_s=0.5))
    assert set(fake.timeouts) == {0.5}
    assert len(calls) == len(fake.timeouts) > 6


@pytest.mark.parametrize(("cores", "most"), [(0, 64), (8, 64), (100, 400)])
def test_the_bound_follows_the_cluster(install: Callable[..., FakeRay], cores: int, most: int) -> None:
    fake = install(cores=cores)
    with contextlib.closing(run_tasks(range(1000), fake.start)) as outcomes:
        next(outcomes)
    assert fake.most_in_flight == most


def test_without_items_no_cluster_is_needed() -> None:
    assert not ray.is_initialized()
    assert list(run_tasks([], lambda item: item)) == []
