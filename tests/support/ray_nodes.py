"""A Ray cluster of several nodes on this machine, whose nodes can be lost, added and taken away with notice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

import jobs  # noqa: F401 - sets what Ray reads when it is imported

# isort: split
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


class Nodes:
    """The cluster, and the environment in which a command joins it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.env = {**os.environ, "RAY_ADDRESS": cluster.address, "RECIPROCAL_STACK": "off"}

    def add(self, cpus: int = 2) -> object:
        """Another node."""
        return self._cluster.add_node(num_cpus=cpus)

    def lose(self, node: object) -> None:
        """End a node's processes as a lost machine would."""
        self._cluster.remove_node(node, allow_graceful=False)

    def give_notice(self, node: object, seconds: float) -> None:
        """Announce that a node is taken away after so many seconds. Nothing ends it then."""
        client = ray._raylet.GcsClient(address=self._cluster.address)
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = client.drain_node(node.node_id, _PREEMPTION, "test", deadline_ms)  # type: ignore[attr-defined]
        assert accepted, why


@contextlib.contextmanager
def ray_nodes(factory: pytest.TempPathFactory, cpus: int = 2) -> Iterator[Nodes]:
    """A cluster with one node. Its state is in a ``RECIPROCAL_HOME`` of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(factory.mktemp("home")))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
        try:
            yield Nodes(cluster)
        finally:
            cluster.shutdown()
