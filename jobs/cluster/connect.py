"""Reaching Ray: which cluster, and whether it can ever give what a job asks for."""

from __future__ import annotations

import logging
import os
import socket

import ray

from jobs.cluster.environment import worker_environment
from pipeline.config.stack import find_stack, ray_address
from pipeline.errors import ConfigError, UserError


def connect() -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, of this submitted job, or of the local stack; else start a private
    Ray. All tasks and actors get the variables of ``jobs.cluster.environment``.

    Raises:
        UserError: the recorded local stack, or the named cluster, does not answer.
    """
    if ray.is_initialized():
        return
    address = ray_address()
    if address and "://" not in address and address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except (OSError, ValueError) as error:
            stack = find_stack()
            fix = (
                "the local stack is down: python -m infra.local up"
                if stack and not os.environ.get("RAY_ADDRESS")
                else "check RAY_ADDRESS"
            )
            raise UserError(f"Ray at {address} does not answer: {fix}") from error
    private = address is None or address == "local"
    try:
        one_host = private or _is_loopback(address or "") or _all_nodes_are_here(address)
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": worker_environment(one_host=one_host, private=private)},
            logging_level=logging.WARNING,
            log_to_driver=True,
        )
    except ConnectionError as error:
        raise UserError(f"cannot join Ray at {address}: {str(error).splitlines()[0]}") from error


def _is_loopback(address: str) -> bool:
    """Whether an address can be reached from this host alone, so that all nodes of the cluster are here. A Ray client's
    address (ray://) says nothing: a tunnel may begin there.
    """
    host = address.rpartition(":")[0].strip("[]")
    return host.startswith("127.") or host in ("localhost", "::1")


def _all_nodes_are_here(address: str | None) -> bool:
    """Whether a cluster has no node on another host, and cannot get one.

    Only a connected driver can ask, and a driver's environment is fixed when it connects: hence a connection of its
    own.
    """
    if _grows():
        return False
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    try:
        here = ray.util.get_node_ip_address()
        return all(node["NodeManagerAddress"] == here for node in ray.nodes() if node["Alive"])
    finally:
        ray.shutdown()


def wants_gpu(use_gpu: str) -> bool:
    """Whether ranks get a GPU each: ``yes``, ``no``, or ``auto``: where the cluster has one now.

    Raises:
        ConfigError: ``yes`` on a cluster without GPUs that cannot grow.
    """
    available = ray.cluster_resources().get("GPU", 0) >= 1
    if use_gpu == "yes" and not available and not _grows():
        raise ConfigError("run.use_gpu", use_gpu, "this Ray cluster has no GPU; use auto or no, or add a GPU node")
    return use_gpu == "yes" or (use_gpu == "auto" and available)


def _grows() -> bool:
    """Whether an autoscaler may add nodes; ``ray_cluster.yaml`` says so in the environment of its nodes."""
    return bool(os.environ.get("RECIPROCAL_AUTOSCALING"))


def check_resources(num_workers: int, cpus_per_worker: float, gpu: bool, spread: bool = False) -> None:
    """Refuse at once what would otherwise wait forever.

    Clusters that can grow are not refused: their totals say nothing about what the autoscaler may add.

    Raises:
        ConfigError: the cluster has fewer CPUs, GPUs or nodes than asked for.
    """
    if _grows():
        return
    total = ray.cluster_resources()
    if total.get("CPU", 0) < num_workers * cpus_per_worker:
        raise ConfigError(
            "run.num_workers",
            num_workers,
            f"{num_workers} x {cpus_per_worker:g} CPUs are more than the cluster's {total.get('CPU', 0):g}; lower"
            " run.num_workers or run.cpus_per_worker",
        )
    if gpu and total.get("GPU", 0) < num_workers:
        raise ConfigError(
            "run.num_workers", num_workers, f"the cluster has {total.get('GPU', 0):g} GPUs; use at most as many workers"
        )
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if spread and nodes < num_workers:
        raise ConfigError(
            "run.spread",
            spread,
            f"{num_workers} workers on different nodes need as many nodes, the cluster has {nodes}",
        )
