"""Which processes take connections from other hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil


def listening_beyond_this_host(processes: Iterable[psutil.Process]) -> list[str]:
    """One line for each listening TCP socket of the processes whose address is not a loopback address."""
    found = []
    for process in processes:
        try:
            connections, name = process.net_connections("tcp"), " ".join(process.cmdline())[:120]
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                address = ipaddress.ip_address(connection.laddr.ip)
                address = getattr(address, "ipv4_mapped", None) or address
                if not address.is_loopback:
                    found.append(f"{connection.laddr.ip}:{connection.laddr.port} {name}")
    return found
