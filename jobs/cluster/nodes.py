"""The nodes of the connected cluster: what is free on each, and which are about to be taken away."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import ray.autoscaler.sdk
from ray._private.state import available_resources_per_node, state

_ANSWER_S, _MOST_AT_ONCE = 1.0, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A live node."""

    id: str
    address: str
    free: Mapping[str, float]
    total: Mapping[str, float]
    leaves_at: float | None = None
    """Its cluster is about to take it away, at this time (seconds since 1970; 0: it did not say when)."""

    def __str__(self) -> str:
        return f"node {self.id[:8]} ({self.address})"


def live_nodes() -> list[Node]:
    """All live nodes, in the order of their ids.

    Ray itself counts a node that was lost among the live ones for some more seconds; here every node is asked.
    """
    free, leaving = available_resources_per_node(), state.get_draining_nodes()
    known = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        answers = list(pool.map(_answers, known))
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            free=free.get(node["NodeID"], {}),
            total=node["Resources"],
            leaves_at=leaving[node["NodeID"]] / 1000 if node["NodeID"] in leaving else None,
        )
        for node, answer in zip(known, answers, strict=True)
        if answer
    ]


def _answers(node: dict[str, Any]) -> bool:
    """Whether a node's raylet takes a connection."""
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_ANSWER_S).close()
        return True
    return False


def ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    """Have the cluster's autoscaler, if it has one, keep nodes for these bundles; an empty list takes it back."""
    ray.autoscaler.sdk.request_resources(bundles=bundles)
