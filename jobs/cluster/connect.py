"""Reaching Ray: which cluster, and whether it can ever give what a job asks for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

import ray

from jobs.cluster.environment import worker_environment
from pipeline.config.ray_local import LOOPBACK, forget_old_sessions, is_loopback, ray_folder
from pipeline.config.stack import find_stack, ray_address
from pipeline.errors import ConfigError, UserError

_GCS_PORT = "RAY_GCS_SERVER_PORT"


def connect() -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, of this submitted job, or of the local stack; else start a private
    Ray. All tasks and actors get the variables of ``jobs.cluster.environment``.

    Raises:
        UserError: the recorded local stack, or the named cluster, does not answer.
    """
    if not ray.is_initialized():
        with _signals_kept():
            _connect(ray_address())


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it is initialised, in C++ too, and prints a stack at it: the command's own
    handlers come back.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)


def _connect(address: str | None) -> None:
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
    try:
        if address is None or address == "local":
            _start_private()
            return
        address, one_host = _look_at(address)
        variables = worker_environment(one_host=one_host, address="" if "://" in address else address)
        ray.init(address=address, runtime_env={"env_vars": variables}, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise UserError(f"cannot join Ray at {address}: {str(error).splitlines()[0]}") from error


def _start_private() -> None:
    """Start a Ray that ends with this process. Its address is chosen here, because workers need it from the start.

    It has no dashboard: that costs four seconds of CPU time at each start, and anybody on this host could open it.
    """
    folder = ray_folder("p")
    forget_old_sessions(folder)
    with socket.create_server((LOOPBACK, 0)) as probe:
        port = probe.getsockname()[1]
    variables = worker_environment(one_host=True, private=True, address=f"{LOOPBACK}:{port}")
    os.environ[_GCS_PORT] = str(port)  # Ray has no argument for it
    # It warns at each start that access takes a token, which is as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            runtime_env={"env_vars": variables},
            logging_level=logging.WARNING,
            _temp_dir=str(folder),
        )
    finally:
        del os.environ[_GCS_PORT]


def _look_at(address: str) -> tuple[str, bool]:
    """The address of a cluster's control service, and whether the cluster has no node on another host and cannot get
    one.

    Where the address does not say so itself, only a connected driver can ask, and a driver's environment is fixed when
    it connects: hence a connection of its own.
    """
    if is_loopback(address):
        return address, True
    if _grows() and address != "auto":
        return address, False
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    try:
        here = ray.util.get_node_ip_address()
        one_host = all(node["NodeManagerAddress"] == here for node in ray.nodes() if node["Alive"])
        found = address if "://" in address else ray.get_runtime_context().gcs_address
        return found, one_host and not _grows()
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


def gpus_for(use_gpu: str, gpu: bool, ranks: int) -> int:
    """Ranks that get a GPU each: ``ranks``, or the cluster's GPUs where ``auto`` found fewer and none can be added."""
    if use_gpu != "auto" or not gpu or _grows():
        return ranks
    return min(ranks, int(ray.cluster_resources().get("GPU", 0)))


def _grows() -> bool:
    """Whether an autoscaler may add nodes; ``ray_cluster.yaml`` says so in the environment of its nodes."""
    return bool(os.environ.get("RECIPROCAL_AUTOSCALING"))


def is_private() -> bool:
    """Whether the Ray that ``connect`` reaches is one of this process's own: it has one node, and ends with it."""
    return ray_address() in (None, "local")


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
