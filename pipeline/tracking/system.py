"""How busy a node is, on the run's page: MLflow shows metrics below ``system/`` on a tab of their own.

MLflow's own monitor asks the tracking server before every point and stops for good when that does not answer; workers
have no access to it either. So this reads the same figures, under MLflow's names with the node's before them
(``system/NODE/cpu_utilization_percentage``), and gives them to the run's tracker.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

import psutil

log = logging.getLogger(__name__)
_EVERY_S = 10.0


class Tracker(Protocol):
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...


class SystemMetrics:
    """Reads one node's figures now and then. A node needs one, whatever the number of its ranks.

    Args:
        node: as it shall be named.
        disk: a path on the disk that is of interest.
    """

    def __init__(self, node: str, disk: str = "/") -> None:
        self._node, self._disk = node, disk
        self._sent = self._traffic()
        psutil.cpu_percent()  # the first call has nothing to compare with

    def read(self) -> dict[str, float]:
        """Since the last call: CPU in percent and traffic in MB; now: memory and disk in percent and MB."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(self._disk)
        received, transmitted = self._traffic()
        before, self._sent = self._sent, (received, transmitted)
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (received - before[0]) / 1e6,
            "network_transmit_megabytes": (transmitted - before[1]) / 1e6,
            **_gpus(),
        }
        return {f"system/{self._node}/{name}": value for name, value in values.items()}

    @contextlib.contextmanager
    def sent_to(self, tracker: Tracker, every_s: float = _EVERY_S) -> Iterator[None]:
        """A point every ``every_s`` seconds from a thread, for the length of a with-block. Steps are seconds since
        1970, which rise over all attempts of a run. What the tracker raises is no concern of the block.
        """
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(every_s):
                try:
                    tracker.log_metrics(self.read(), int(time.time()))
                except Exception as error:  # of psutil on an odd host, or of the tracker: a training does not end by it
                    log.debug("no system metrics: %s", error)

        thread = threading.Thread(target=send, name="system-metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    @staticmethod
    def _traffic() -> tuple[int, int]:
        counters = psutil.net_io_counters()
        return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def _gpus() -> dict[str, float]:
    """Memory in use of every GPU that this process can see, by whichever process."""
    import torch

    if not torch.cuda.is_initialized():
        return {}
    found = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"gpu_{number}_memory_usage_megabytes"] = (total - free) / 1e6
        found[f"gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
    return found
