"""What the loop measures of every rank: the curves of a run's speed, the slowest rank, and where the time went.

meter = Meter(times)                         # one a rank
meter.begin(model, loader, ...)              # collective
... meter.step_ended() after each step ...
metrics |= meter.curve()                     # collective, at every point of a curve
meter.report(tracker, global_step)           # collective, at the end
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.training.bottleneck import find_bottleneck
from pipeline.training.collective import gather_numbers, gather_objects, world_size
from pipeline.training.speed import Speed
from pipeline.training.startup import Startup
from pipeline.training.timing import ExchangeTimer, Lap, StepTimes

log = logging.getLogger(__name__)

Observe = Callable[[Mapping[str, float]], None]
_WORTH_SAYING = 0.10  # of the time
_STEADY_STEPS = 5  # over fewer, which rank is slowest depends on whose batches happened to be ready


class Meter:
    """Measures one rank; where there are more, all call its collective methods at the same place.

    Args:
        times: of this rank's training thread.
        node: this rank's host, as it shall be named.
        speed: for the curve of MFU; called once, after the first point of a curve, so that it delays no first step.
        startup: up to where the loop begins.
        observe: takes this rank's own numbers at every point of a curve: a metrics endpoint, for example.
    """

    def __init__(
        self,
        times: StepTimes | None = None,
        *,
        node: str = "",
        speed: Callable[[], Speed] | None = None,
        startup: Startup | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.times = times or StepTimes()
        self._node, self._measure_speed, self._startup, self._observe = node, speed, startup, observe
        self._speed: Speed | None = None
        self._device = torch.device("cpu")
        self._nodes: list[str] = []

    def begin(self, model: torch.nn.Module, loader: Any, device: torch.device, batch_size: int, rank: int) -> None:
        """Collective, before the first step.

        Args:
            model: as it is called: bare, or in DistributedDataParallel.
            loader: whose ``metrics()`` are of this rank.
            batch_size: global, in clips.
        """
        self._exchange, self._loader, self._device = ExchangeTimer(model, self.times), loader, device
        self._batch_size, self._rank, self._ranks = batch_size, rank, world_size()
        self._nodes = gather_objects(self._node)
        self.restart()

    def restart(self) -> None:
        """The next point of a curve is about the time from here on."""
        self._lap = Lap(self.times)

    def step_ended(self) -> None:
        self.times.steps += 1
        self._exchange.step_ended()
        if self.times.steps == 1 and self._startup:
            first = self.times.progress.first
            self._startup.mark("checkpoint", first["begin"])  # read, or found to be missing
            self._startup.mark("first batch", first["wait_s"])
            self._startup.mark("first step")
            if self._rank == 0:
                log.info("%s", self._startup)

    def curve(self) -> dict[str, float]:
        """Collective: the run's speed since the last point, and how its ranks differ; equal on all ranks.

        ``train/straggler_share`` is the part of the time in which the other ranks wait for the slowest one, as far as
        it is slower than their mean, of points that cover five steps or more; ``train/gpu_memory_gb`` is the largest
        peak of a rank.
        """
        seconds, lap = self._lap.end()
        memory_gb = torch.cuda.max_memory_allocated(self._device) / 1e9 if self._device.type == "cuda" else 0.0
        own = [seconds, lap.wait_s, lap.copy_s, lap.step_s, lap.exchange_s, lap.busy_s, memory_gb]
        rows = gather_numbers(own, self._device)
        longest = max(max(row[0] for row in rows), 1e-9)
        wait, copy, step, exchange = (sum(row[i] for row in rows) / len(rows) / longest for i in range(1, 5))
        clips_per_s = self._batch_size * lap.steps / longest
        curve = {
            "train/clips_per_s": clips_per_s,
            "train/data_wait_share": wait,
            "train/copy_share": copy,
            "train/step_share": step,
        }
        if len(rows) > 1 and self._exchange.measures:
            curve["train/exchange_share"] = exchange
        if len(rows) > 1 and lap.steps >= _STEADY_STEPS:
            slowest, lost_s = find_straggler([row[5] for row in rows])
            curve |= {"train/slowest_rank": float(slowest), "train/straggler_share": lost_s / longest}
        if any(row[6] for row in rows):
            curve["train/gpu_memory_gb"] = max(row[6] for row in rows)
        per_rank = clips_per_s / len(rows)
        mfu = per_rank * self._speed.flop_per_clip / self._speed.peak_flops if self._speed else 0.0
        if mfu:
            curve["train/mfu"] = mfu
        if self._observe:
            self._observe(self._own(seconds, lap, memory_gb, per_rank, mfu))
        if self._measure_speed:
            self._speed, self._measure_speed = self._measure_speed(), None
            self.restart()
        return curve

    def straggler_line(self, curve: Mapping[str, float]) -> str:
        """``; rank 3 on NODE is the slowest: the others wait 23 % of the time``, where that is worth saying."""
        share = curve.get("train/straggler_share", 0.0)
        if share < _WORTH_SAYING:
            return ""
        rank = int(curve["train/slowest_rank"])
        return f"; {self._name(rank)} is the slowest: the others wait for it {100 * share:.0f} % of the time"

    def report(self, tracker: Any, step: int) -> None:
        """Collective: log where the time of all ranks went; give it to rank 0's ``tracker``, if there is one."""
        if not self.times.steps:
            return
        ranks = gather_objects(
            {**dataclasses.asdict(self.times), **self._loader.metrics(), "busy_s": self.times.busy_s}
        )
        if self._rank != 0:
            return
        mean = {name: sum(r.get(name, 0.0) for r in ranks) / len(ranks) for name in ranks[0]}
        fields = [f.name for f in dataclasses.fields(StepTimes) if f.name != "steps"]
        whole = StepTimes(self.times.steps, **{name: mean[name] for name in fields})
        bottleneck = find_bottleneck(whole, mean, decode_share=mean.get("decode_share", 1.0))
        metrics = {f"time/{name}_share": share for name, share in bottleneck.shares.items()}
        metrics |= {"time/checkpoint_s": whole.checkpoint_s, "time/validate_s": whole.validate_s}
        if self._startup:
            parts = self._startup.parts()
            metrics |= {f"start/{part.replace(' ', '_')}_s": seconds for part, seconds in parts.items()}
        line = ""
        if len(ranks) > 1:
            slowest, lost_s = find_straggler([r["busy_s"] for r in ranks])
            found = {"train/straggler_share": lost_s / max(whole.total_s, 1e-9), "train/slowest_rank": float(slowest)}
            metrics["time/straggler_share"] = found["train/straggler_share"]
            line = self.straggler_line(found)
        log.info("the run is %s%s", bottleneck, line)
        if tracker:
            tracker.log_metrics(metrics, step)
            tracker.set_tags({"bottleneck": f"{bottleneck}{line}"})

    def _name(self, rank: int) -> str:
        node = self._nodes[rank] if rank < len(self._nodes) else ""
        return f"rank {rank} on {node}" if node else f"rank {rank}"

    def _own(
        self, seconds: float, lap: StepTimes, memory_gb: float, clips_per_s: float, mfu: float
    ) -> dict[str, float]:
        """This rank's numbers for ``observe``."""
        seconds = max(seconds, 1e-9)
        return {
            "step": float(self.times.global_step),
            "clips_per_s": clips_per_s,
            "step_seconds": seconds / max(lap.steps, 1),
            "busy_share": lap.busy_s / seconds,
            "wait_share": lap.wait_s / seconds,
            "copy_share": lap.copy_s / seconds,
            "exchange_share": min(lap.exchange_s, lap.step_s) / seconds,
            "compute_share": max(0.0, lap.step_s - lap.exchange_s) / seconds,
            "gpu_memory_bytes": memory_gb * 1e9,
            "mfu": mfu,
            "checkpoint_seconds": self.times.checkpoint_s,
            **{f"loader_{name}": float(value) for name, value in self._loader.metrics().items()},
        }


def find_straggler(busy_s: list[float]) -> tuple[int, float]:
    """The rank that works longest on its own part, and how many seconds longer than the others' mean. With two or more
    ranks.
    """
    slowest = max(range(len(busy_s)), key=lambda rank: busy_s[rank])
    others = [seconds for rank, seconds in enumerate(busy_s) if rank != slowest]
    return slowest, max(0.0, busy_s[slowest] - sum(others) / len(others))
