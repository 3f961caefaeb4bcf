"""A node's figures: MLflow's own monitor reads the same, and a tracker that fails stops nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from pipeline.tracking.system import SystemMetrics


class Kept:
    def __init__(self, fail: bool = False) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.calls, self._fail = 0, fail

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self._fail:
            raise ConnectionError("down")
        self.points.append((step, dict(metrics)))


def test_names_and_figures_are_those_of_mlflows_own_monitor() -> None:
    mlflow: dict[str, float] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        mlflow |= monitor.aggregate_metrics()
    ours = {name.removeprefix("system/n1/"): value for name, value in SystemMetrics("n1").read().items()}
    assert ours.keys() == mlflow.keys()
    for name in ("system_memory_usage_percentage", "disk_usage_percentage", "disk_available_megabytes"):
        assert ours[name] == pytest.approx(mlflow[name], rel=0.1)
    assert 0 <= ours["cpu_utilization_percentage"] <= 100


def test_points_come_while_the_block_lasts_and_their_steps_rise() -> None:
    tracker = Kept()
    began = int(time.time())
    with SystemMetrics("n1").sent_to(tracker, every_s=0.05):
        time.sleep(0.5)
    time.sleep(0.1)
    number = len(tracker.points)
    assert number >= 2
    time.sleep(0.2)
    assert len(tracker.points) == number
    steps = [step for step, _ in tracker.points]
    assert steps == sorted(steps)
    assert began <= steps[0] <= steps[-1] <= began + 5


def test_a_tracker_that_fails_is_asked_again_and_disturbs_nobody() -> None:
    tracker = Kept(fail=True)
    with SystemMetrics("n1").sent_to(tracker, every_s=0.05):
        time.sleep(0.5)
    assert tracker.calls >= 2
