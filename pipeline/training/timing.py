"""Where the time of a run goes, and what limits it: storage, decoding, computing or communication."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping

import torch

from pipeline.common.timer import StageTimer
from pipeline.data.batch import Batch

# Share of a run's time in which a trainer may wait for data before data is the bottleneck: removing it gains no more.
_MAX_WAIT_SHARE = 0.10
_MAX_EXCHANGE_SHARE = 0.25  # of a run's time, exchanging gradients while nothing is computed


@dataclasses.dataclass
class StepTimes(StageTimer):
    """Seconds of the trainer's own thread since the start; they do not overlap.

    Work on a GPU counts where the host waits for it, which it does for the norm of the gradient in every step.
    """

    steps: int = 0
    wait_s: float = 0.0
    """For a batch."""
    copy_s: float = 0.0
    """Of batches to the device."""
    step_s: float = 0.0
    """Forward, backward (with the exchange of gradients) and update."""

    @property
    def total_s(self) -> float:
        return self.wait_s + self.copy_s + self.step_s


def communication_s(model: torch.nn.Module) -> float:
    """Seconds of the latest sampled step's backward pass in which only gradients were exchanged; 0 for a single rank.

    torch's own measurement in DistributedDataParallel: the exchange less the part that overlapped with computation.
    """
    read = getattr(model, "_get_ddp_logging_data", None)
    if read is None:
        return 0.0
    data = read()
    exposed_ns = data.get("avg_backward_comm_time", 0) - data.get("avg_backward_compute_comm_overlap_time", 0)
    return max(0.0, exposed_ns / 1e9)


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """What limits a run, shares of the trainer's time, and what to change."""

    bound: str
    """storage, decode, augment, copy, compute or communication."""
    shares: dict[str, float]
    """storage, decode and augment are the trainer's waiting, divided in the proportions of the loader's own time."""
    advice: str

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares.items())
        return f"{self.bound}-bound ({shares}): {self.advice}"


_ADVICE = {
    "storage": (
        "more GETs in flight (data.fetch_threads), a cache on local disk (data.cache_dir), or a bucket that is nearer"
    ),
    "decode": (
        "more run.cpus_per_worker, decoding on a GPU (data.device), a smaller stored.short_side or clip.stride, or"
        " fewer modalities"
    ),
    "augment": (
        "more run.cpus_per_worker, augmentation on a GPU (data.device), a smaller clip.crop, or no colour jitter"
    ),
    "copy": "decode on the GPU (data.device = gpu), so that nothing is copied, or a smaller data.micro_batch",
    "compute": (
        "the data keeps up: a faster or another device (run.num_workers), bf16 (run.precision), a smaller model or"
        " clip.crop"
    ),
    "communication": (
        "a larger data.batch_size a rank, fewer nodes with more GPUs each, or a faster network between them"
    ),
}


def find_bottleneck(
    times: StepTimes, loader: Mapping[str, float], *, decode_share: float = 1.0, exchange_s: float = 0.0
) -> Bottleneck:
    """What limits a run.

    Args:
        times: of the trainer's thread, all ranks together or of one.
        loader: ``Loader.metrics()`` of the same ranks: ``fetch_wait_s`` and ``decode_s`` of the producing thread.
        decode_share: part of ``decode_s`` that is decoding; the rest is augmentation.
        exchange_s: seconds a step in which only gradients were exchanged.

    Returns:
        Data is the bottleneck where the trainer waits more than 10 % of its time: storage, decoding or augmentation,
        whichever takes most of the loader's time.
    """
    total = max(times.total_s, 1e-9)
    fetch_s, decode_s = loader.get("fetch_wait_s", 0.0), loader.get("decode_s", 0.0)
    busy = max(fetch_s + decode_s, 1e-9)
    waits = times.wait_s / total
    data = {
        "storage": waits * fetch_s / busy,
        "decode": waits * decode_s * decode_share / busy,
        "augment": waits * decode_s * (1 - decode_share) / busy,
    }
    communication = min(exchange_s * times.steps, times.step_s) / total
    shares = {
        **data,
        "copy": times.copy_s / total,
        "compute": times.step_s / total - communication,
        "communication": communication,
    }
    if waits > _MAX_WAIT_SHARE:
        bound = max(data, key=lambda name: data[name])
    elif shares["copy"] > max(_MAX_WAIT_SHARE, communication):
        bound = "copy"
    elif communication > _MAX_EXCHANGE_SHARE:
        bound = "communication"
    else:
        bound = "compute"
    return Bottleneck(bound, shares, _ADVICE[bound])


class Lap:
    """A stretch of the run: its length, and what the trainer did in it."""

    def __init__(self, times: StepTimes) -> None:
        self._times, self._start_s, self._before = times, time.perf_counter(), dataclasses.replace(times)

    def end(self) -> tuple[float, StepTimes]:
        """Seconds and times since the last end; the next lap begins."""
        now = time.perf_counter()
        lap = now - self._start_s, self._times - self._before
        self._start_s, self._before = now, dataclasses.replace(self._times)
        return lap


def timed(batches: Iterator[Batch], times: StepTimes) -> Iterator[Batch]:
    """The batches; waiting for each counts in ``times``."""
    try:
        while True:
            with times.measure("wait_s"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()  # ends the loader's threads even when a step raised
