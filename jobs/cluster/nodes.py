"""The nodes of the connected cluster: what is free on each, and which are about to be taken away."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import ray
import ray.autoscaler.sdk
from ray._private.state import available_resources_per_node, state

log = logging.getLogger(__name__)


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
    """All live nodes, in the order of their ids."""
    free, leaving = available_resources_per_node(), state.get_draining_nodes()
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            free=free.get(node["NodeID"], {}),
            total=node["Resources"],
            leaves_at=leaving[node["NodeID"]] / 1000 if node["NodeID"] in leaving else None,
        )
        for node in sorted(ray.nodes(), key=lambda node: node["NodeID"])
        if node["Alive"]
    ]


def ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    """Have the cluster's autoscaler, if it has one, keep nodes for these bundles; an empty list takes it back."""
    ray.autoscaler.sdk.request_resources(bundles=bundles)
