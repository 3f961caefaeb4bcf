"""Waiting until the cluster has room for a run's ranks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from jobs.cluster.nodes import Node
from jobs.train.ranks import Need
from pipeline.common.words import counted
from pipeline.errors import ConfigError

log = logging.getLogger("jobs.train")
_LOOK_S, _NOTICE_S = 1.0, 60.0
_SETTLE_S = 6.0  # what ranks that have just ended held is free again by then


class Cluster(Protocol):
    """What waiting asks of Ray."""

    fixed: bool
    """No node will ever join."""

    def nodes(self) -> Sequence[Node]: ...
    def users(self) -> str: ...
    def ask_autoscaler(self, need: Need) -> None: ...
    def now_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


def wait_for_ranks(need: Need, cluster: Cluster, minutes: float, check: Callable[[], None]) -> int:
    """The number of ranks for the next attempt.

    The largest that the nodes could hold is waited for a few seconds, then what is free now is taken. Where even the
    least does not fit, a line a minute says what is asked for and what is there. Nodes that are missing are waited for
    ``minutes``; what other commands hold, for as long as they do.

    Args:
        check: called often; may raise.

    Raises:
        ConfigError: the nodes are not there.
    """
    start_s = cluster.now_s()
    notice_s = start_s
    while True:
        check()
        nodes, waited_s = cluster.nodes(), cluster.now_s() - start_s
        ranks, possible = (need.ranks(need.places(nodes, of)) for of in ("free", "total"))
        if ranks and (ranks == possible or waited_s >= _SETTLE_S):
            return ranks
        if not possible and (cluster.fixed or waited_s >= 60 * minutes):
            raise _missing(need, nodes, 0.0 if cluster.fixed else minutes)
        settled = bool(possible) and waited_s < _SETTLE_S
        if not settled and cluster.now_s() >= notice_s:
            log.info("%s", _notice(need, nodes, bool(possible), minutes - waited_s / 60, cluster.users))
            cluster.ask_autoscaler(need)
            notice_s = cluster.now_s() + _NOTICE_S
        cluster.sleep(_LOOK_S)


def there(need: Need, nodes: Sequence[Node]) -> str:
    """``2 CPUs and 1 GPU on 2 nodes``, of the nodes that stay."""
    stay = [node for node in nodes if node.leaves_at is None]
    amounts = [
        f"{amount:g} {name}{'' if amount == 1 else 's'}"
        for name in need.resources
        for amount in [sum(node.total.get(name, 0.0) for node in stay)]
    ]
    leave = len(nodes) - len(stay)
    return f"{' and '.join(amounts)} on {counted(len(stay), 'node')}" + (f", and {leave} that leave" if leave else "")


def _notice(need: Need, nodes: Sequence[Node], busy: bool, minutes: float, users: Callable[[], str]) -> str:
    if busy:
        names = users()
        return f"waiting for {need}: the cluster's {there(need, nodes)} are in use{f' by {names}' if names else ''}"
    left = f"{minutes:.0f}" if minutes >= 1 else f"{max(minutes, 0):.1f}"
    return f"waiting for {need}: the cluster has {there(need, nodes)}; for up to {left} more minutes (run.wait_minutes)"


def _missing(need: Need, nodes: Sequence[Node], waited_minutes: float) -> ConfigError:
    waited = f" after {waited_minutes:g} minutes (run.wait_minutes)" if waited_minutes else ""
    fewer = dataclasses.replace(need, least=1).ranks(need.places(nodes, "total"))
    lower = f"; {fewer} would fit: run.min_workers {fewer} allows that" if fewer else ""
    return ConfigError(
        "run.num_workers",
        need.most,
        f"{need} are more than the cluster's {there(need, nodes)}{waited}; lower it or run.cpus_per_worker, or add"
        f" nodes{lower}",
    )
