"""What limits a run: storage, decoding, augmentation, copying, computing or communication."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipeline.training.timing import StepTimes

_WORTH_SAYING = 0.10  # of the time; to remove less gains little


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """What limits a run, shares of the trainer's time, and what to change."""

    bound: str
    """storage, decode, augment, copy, compute or communication."""
    shares: dict[str, float]
    """storage, decode and augment are the trainer's waiting, divided in the proportions of the loader's own time."""
    next: str = ""
    """The largest share of another kind, where it is worth removing."""

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares.items())
        text = f"{self.bound}-bound ({shares}): {_ADVICE[self.bound]}"
        return f"{text}. Next, {self.next}: {_ADVICE[self.next]}" if self.next else text


_DATA = ("storage", "decode", "augment")
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
    "compute": "a faster or another device (run.num_workers), bf16 (run.precision), a smaller model or clip.crop",
    "communication": (
        "a larger data.batch_size a rank, fewer nodes with more GPUs each, or a faster network between them"
    ),
}


def find_bottleneck(times: StepTimes, loader: Mapping[str, float], *, decode_share: float = 1.0) -> Bottleneck:
    """What limits a run: waiting for data, copying, computing or communication, whichever takes most of its time.

    Args:
        times: of the training thread, all ranks together or of one.
        loader: ``Loader.metrics()`` of the same ranks: ``fetch_wait_s`` and ``decode_s`` of the producing thread.
        decode_share: part of ``decode_s`` that is decoding; the rest is augmentation.

    Returns:
        Where it is waiting for data, ``bound`` is storage, decode or augment, whichever takes most of the loader's
        time.
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
    communication = min(times.exchange_s, times.step_s) / total
    others = {
        "copy": times.copy_s / total,
        "compute": times.step_s / total - communication,
        "communication": communication,
    }
    largest = max(data, key=lambda name: data[name])
    kinds = {**others, largest: waits}
    # Of equal shares first what can be removed; computing is what a run is for.
    order = sorted(kinds, key=lambda name: (round(kinds[name], 9), name != "compute"), reverse=True)
    if not times.total_s:
        return Bottleneck("compute", {**data, **others})
    rest = [name for name in order[1:] if name != "compute" and kinds[name] >= _WORTH_SAYING]
    return Bottleneck(order[0], {**data, **others}, rest[0] if rest else "")
