"""A cluster and its groups of ranks on a clock that only sleeping and waiting move: what happens when is a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jobs.cluster.nodes import Node
from jobs.train.attempts import Ended
from jobs.train.control import Progress
from jobs.train.ranks import Need
from pipeline.training.ask import Ask


def node(name: str, cpus: float, *, free: float | None = None, leaves_at: float | None = None) -> Node:
    """A node of so many CPUs, all of them free unless said otherwise."""
    return Node(
        id=name,
        address="10.0.0.1",
        total={"CPU": cpus},
        free={"CPU": cpus if free is None else free},
        leaves_at=leaves_at,
    )


@dataclasses.dataclass
class FakeGroup:
    """Takes a step a second from ``from_step``, a checkpoint every ``every`` steps; leaves a second after it is asked
    to; ends with ``error`` at ``fails_at``; is over at step ``last``.
    """

    cluster: FakeCluster
    ranks: int
    from_step: int
    last: int
    every: int
    error: BaseException | None = None
    fails_at: int = 1 << 30
    deaf: bool = False
    steps: int = 0
    asked: Ask = Ask.NONE
    killed: bool = False

    def __post_init__(self) -> None:
        """Take a place for every rank."""
        self.held: dict[str, float] = {}
        self.cluster.groups.append(self)
        for _ in range(self.ranks):
            free = [n for n in self.cluster.nodes() if n.leaves_at is None and n.free["CPU"] >= 1]
            name = max(free, key=lambda n: n.free["CPU"]).id
            self.held[name] = self.held.get(name, 0) + 1

    def wait(self, seconds: float) -> Ended | None:
        self.cluster.sleep(seconds)
        if ended := self._look():
            self.held = {}
        return ended

    def _look(self) -> Ended | None:
        before, self.steps = self.steps, self.steps + (self.cluster.clock % 1.0 == 0)
        done = self.from_step + self.steps
        if self.error and done >= self.fails_at:
            return Ended(error=self.error)
        if done >= self.last:
            self.cluster.saved = done
            return Ended(checkpoint=f"checkpoint_{done}")
        if self.asked is Ask.LEAVE and not self.deaf and self.steps > before:
            self.cluster.saved = done
            return Ended(left=True)
        if self.every and self.steps > before and done % self.every == 0:
            self.cluster.saved = done
        return None

    def progress(self) -> Progress:
        return Progress(nodes=frozenset(self.held), steps=self.steps, first_s=1.0, last_s=self.cluster.clock)

    def wish(self, ask: Ask) -> None:
        self.asked = ask

    def kill(self) -> None:
        self.killed = True


class FakeCluster:
    """Nodes that follow from the time.

    Args:
        nodes_at: the nodes at a time in seconds.
    """

    def __init__(self, nodes_at: Callable[[float], Sequence[Node]], *, fixed: bool = False) -> None:
        self.nodes_at, self.fixed = nodes_at, fixed
        self.clock, self.saved = 0.0, 0
        self.groups: list[FakeGroup] = []
        self.wanted: list[Need] = []

    def nodes(self) -> Sequence[Node]:
        return [
            dataclasses.replace(
                node, free={"CPU": node.free["CPU"] - sum(group.held.get(node.id, 0) for group in self.groups)}
            )
            for node in self.nodes_at(self.clock)
        ]

    def users(self) -> str:
        return "python -m jobs.train other (2 CPUs)"

    def ask_autoscaler(self, need: Need) -> None:
        self.wanted.append(need)

    def now_s(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
