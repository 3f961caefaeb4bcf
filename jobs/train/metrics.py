"""A rank's numbers for Prometheus, through Ray: every node of a cluster serves those of its ranks at its metrics port.

Ray puts ``ray_`` before each name, and ``_total`` behind that of a counter; ``infra/grafana`` has a board for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

PREFIX = "reciprocal_train_"
TAGS = ("run", "rank")

# What a rank observes (pipeline.training.meter) -> what it means. Gauges are of the time since the last point.
GAUGES = {
    "step": "Steps that the run has done",
    "clips_per_s": "Clips a second of this rank",
    "step_seconds": "Seconds a step",
    "busy_share": "Share of the time in which the rank waits for data, copies or computes, and waits for no other rank",
    "wait_share": "Share of the time in which the rank waits for data",
    "copy_share": "Share of the time in which batches are copied to the device",
    "compute_share": "Share of the time in which the rank computes",
    "exchange_share": "Share of the time in which gradients are exchanged, or a slower rank is waited for",
    "gpu_memory_bytes": "Largest GPU memory that the rank has had at once",
    "mfu": "The model's own FLOP a second over the device's rate on matrix products",
}
COUNTERS = {
    "checkpoint_seconds": "Seconds in which training stood still for checkpoints",
    "loader_requests": "GETs that were answered",
    "loader_bytes": "Bytes of those GETs",
    "loader_retries": "Requests that failed and were repeated",
    "loader_cache_hits": "Samples that came from the cache on local disk",
    "loader_damaged": "Damaged samples",
}


def exported_names() -> set[str]:
    """The names under which Prometheus finds them."""
    return {f"ray_{PREFIX}{name}" for name in GAUGES} | {f"ray_{PREFIX}{name}_total" for name in COUNTERS}


class RankMetrics:
    """Takes a rank's numbers (``pipeline.training.meter.Meter``, ``observe``)."""

    def __init__(self, run_id: str, rank: int) -> None:
        tags = {"run": run_id, "rank": str(rank)}
        self._gauges = {name: Gauge(PREFIX + name, text, TAGS) for name, text in GAUGES.items()}
        self._counters = {name: Counter(PREFIX + name, text, TAGS) for name, text in COUNTERS.items()}
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags(tags)
        self._before = dict.fromkeys(COUNTERS, 0.0)

    def __call__(self, values: Mapping[str, float]) -> None:
        for name, gauge in self._gauges.items():
            if name in values:
                gauge.set(values[name])
        for name, counter in self._counters.items():
            more = values.get(name, 0.0) - self._before[name]
            if more > 0:
                counter.inc(more)
                self._before[name] += more
