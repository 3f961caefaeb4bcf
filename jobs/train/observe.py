"""What watches a rank without taking part in its training: watchdog, meter, its and its node's metrics."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psutil
import ray
import torch

from jobs.train.metrics import RankMetrics
from pipeline.config.train import TrainConfig
from pipeline.storage import join, open_storage
from pipeline.tracking.system import SystemMetrics, Tracker
from pipeline.training.collective import gather_objects
from pipeline.training.hang import HangReports
from pipeline.training.meter import Meter
from pipeline.training.speed import measure_speed
from pipeline.training.startup import Startup
from pipeline.training.timing import StepTimes
from pipeline.training.watchdog import Watchdog

T = TypeVar("T")


class Observer:
    """Of one rank; made where its function begins.

    Args:
        started: when the command (or a later attempt) began and when its ranks were asked for, in seconds since 1970.
    """

    def __init__(self, config: TrainConfig, started: tuple[float, float] | None = None) -> None:
        self._config, self.times = config, StepTimes()
        self._watchdog = Watchdog(self.times, config.run.step_timeout_s, compiles=config.run.compile)
        process_s = psutil.Process().create_time()
        began_s, asked_s = started or (process_s, process_s)
        self.startup = Startup(began_s, [("driver", asked_s), ("placement", process_s)] if started else [])
        self.startup.mark("imports")  # and the process group

    def watch(self, work: Callable[[], T]) -> T:
        """``Watchdog.run``."""
        return self._watchdog.run(work)

    def join(self, rank: int, device: torch.device, num_classes: int) -> Meter:
        """Collective: the ranks learn of each other. Returns what the loop measures with."""
        node = ray.util.get_node_ip_address()
        attempt = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        ranks = gather_objects((attempt, node))
        run = open_storage(join(self._config.run.output, self._config.run.run_id))
        self._watchdog.reports = HangReports(run, ranks[0][0], rank, [name for _, name in ranks])
        return Meter(
            self.times,
            node=node,
            speed=lambda: measure_speed(self._config, num_classes, device),
            startup=self.startup,
            observe=RankMetrics(self._config.run.run_id, rank),
        )

    def follow(self, loader: Any) -> None:
        """The training's batches come from this loader."""
        self._watchdog.waiting_for = loader.waiting_for
        self.startup.mark("data index")

    @contextlib.contextmanager
    def node_metrics(self, tracker: Tracker | None) -> Iterator[None]:
        """The node's figures go to ``tracker`` meanwhile; None where another rank of this node sends them."""
        if tracker is None:
            yield
            return
        with SystemMetrics(ray.util.get_node_ip_address()).sent_to(tracker):
            yield
