"""The ranks' process group, whose servers listen on their node's address and nowhere else.

torch's own set-up, which Ray Train uses, lets the key-value store through which ranks find each other listen on all
interfaces, without a password. Here rank 0 opens the socket itself, at the address by which Ray knows its node, and
hands it to the store; gloo is told that address's interface. NCCL chooses by itself, because its best interface may be
another one, save on a cluster that is on 127.0.0.1 alone.
"""

from __future__ import annotations

import datetime
import os
import socket
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from pipeline.config.ray_local import LOOPBACK

_store: dict[str, dist.TCPStore] = {}  # of rank 0, between the two calls that its process gets


class NodeTorchConfig(TorchConfig):
    """``TorchConfig`` for ``backend`` gloo or nccl with this module's way of setting up."""

    @property
    def backend_cls(self) -> type:
        return _Backend


class _Backend(_TorchBackend):
    """Ray calls ``on_start`` once all workers of a group run; ending the group stays Ray's."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        size, timeout_s = len(worker_group), backend_config.timeout_s
        address, port = worker_group.execute_single(0, open_store, size, timeout_s)
        common = (backend_config.backend, size, address, port, timeout_s)
        ray.get([worker_group.execute_single_async(rank, _join, rank, *common) for rank in range(size)])


def open_store(world_size: int, timeout_s: int, address: str = "") -> tuple[str, int]:
    """Open the store in this process; return its address and port.

    Args:
        address: to listen on; by default the one of this node in the connected Ray cluster.
    """
    address = address or ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    port = listener.getsockname()[1]
    _store["store"] = dist.TCPStore(
        address,
        port,
        world_size,
        is_master=True,
        timeout=datetime.timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return address, port


def _join(rank: int, backend: str, world_size: int, address: str, port: int, timeout_s: int) -> None:
    timeout = datetime.timedelta(seconds=timeout_s)
    if rank == 0:
        store = _store.pop("store")
    else:
        store = dist.TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    here = ray.util.get_node_ip_address()
    if interface := _interface(here):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if here == LOOPBACK:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if backend == "nccl":
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray does: a step that hangs must fail
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _interface(address: str) -> str | None:
    """The name of the network interface that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return name
    return None
