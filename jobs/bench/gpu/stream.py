"""Training steps beside a thread that brings clips to the device: as the loader does, as it did, and without one."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import torch

from jobs.bench.gpu.crn import CLASSES, config_for
from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import seconds
from jobs.bench.gpu.training import Variant, training_step
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.data.decoding.stacks import ClipMemory, stack_motion
from pipeline.data.delivery import Delivery
from pipeline.data.sampling.clips import motion_offsets

_COPIES = 9  # blocking operations of a batch, as the loader's thread had them


def measure(settings: Settings) -> Iterator[Row]:
    """Step time by what the thread does at the same time."""
    for clips in (2,) if settings.tiny else (8, 32):
        for what in ("none", "pageable copies on its stream", "the loader's delivery"):
            name = f"CRN {clips} beside a loader: {what}"
            yield from guarded(settings, name, lambda what=what, clips=clips: _step(settings, what, clips))


def _step(settings: Settings, what: str, clips: int) -> Row:
    config = config_for(clips, settings.tiny)
    stop, ready, made = threading.Event(), queue.Queue(2), [0]
    delivery = Delivery(settings.device)

    def arrived() -> Batch:
        return delivery.receive(ready.get(timeout=20))  # its thread may have failed

    delivered = what == "the loader's delivery"
    variant = Variant()
    step, _ = training_step(config, CLASSES, variant, settings, source=arrived if delivered else None)
    work = (
        (lambda: _deliver(delivery, config, ready, stop, made)) if delivered else (lambda: _copy(settings, stop, made))
    )
    thread = threading.Thread(target=work)
    if what != "none":
        thread.start()
    try:
        s = seconds(step, settings)
    finally:
        stop.set()
        if what != "none":
            thread.join()
    return {"ms": 1000 * s, "clips_per_s": clips / s, "loader_batches": made[0]}


def _deliver(
    delivery: Delivery, config: TrainConfig, ready: queue.Queue[Batch], stop: threading.Event, made: list[int]
) -> None:
    """What the loader's thread does with clips that its decoder has made."""
    clip, rows = config.clip, config.data.batch_size
    memory = ClipMemory(pinned=delivery.target.type == "cuda")
    lengths = {"rgb": (clip.num_frames, 3), "flow": (len(motion_offsets(clip)), 2)}
    drawn = {m: torch.randn_like(memory.empty_clips(rows, *n, clip.crop, True)[0]) for m, n in lengths.items()}
    while not stop.is_set():
        with delivery.open():
            clips = {m: memory.empty_clips(rows, *n, clip.crop, True)[0].copy_(drawn[m]) for m, n in lengths.items()}
            found = delivery.send(clips)
            inputs = {m: x if m == "rgb" else stack_motion(x, clip) for m, x in found.items()}
            labels = delivery.tensor(torch.zeros(rows, dtype=torch.int64))
            weights = delivery.tensor(torch.ones(rows))
            batch = delivery.seal(Batch(inputs, labels, weights, ("",) * rows, 0, 0))
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(batch, timeout=0.05)
                made[0] += 1
                break


def _copy(settings: Settings, stop: threading.Event, made: list[int]) -> None:
    """Copies clips to the device in pieces on its default stream, each waited for, and normalises them."""
    crop = 32 if settings.tiny else 224
    host = torch.zeros(8, 10, 3, crop, crop, dtype=torch.uint8)
    while not stop.is_set():
        for _ in range(_COPIES):
            host.to(settings.device).float().sub_(127.5).div_(58.0)
            settings.synchronise()
        made[0] += 1
        stop.wait(0.002)
