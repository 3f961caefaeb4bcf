"""A loader's thread beside the training step: its work on the training's stream, on one of its own, and none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from jobs.bench.gpu.crn import CLASSES, config_for
from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import seconds
from jobs.bench.gpu.training import Variant, training_step

_COPIES = 9  # blocking operations of a batch, as the loader's thread has them


def measure(settings: Settings) -> Iterator[Row]:
    """Step time by what the thread does at the same time."""
    for what in ("none", "default stream, pageable", "own stream, pageable", "own stream, pinned"):
        yield from guarded(settings, f"CRN step beside a loader: {what}", lambda what=what: _step(settings, what))


def _step(settings: Settings, what: str) -> Row:
    config = config_for(2 if settings.tiny else 8, settings.tiny)
    step, _ = training_step(config, CLASSES, Variant(channels_last=True, benchmark=True), settings)
    for _ in range(3):
        step()
    stop, batches = threading.Event(), []
    thread = threading.Thread(target=_load, args=(settings, what, stop, batches, len(range(config.data.batch_size))))
    if what != "none":
        thread.start()
    try:
        s = seconds(step, settings)
    finally:
        stop.set()
        if what != "none":
            thread.join()
    return {"ms": 1000 * s, "clips_per_s": config.data.batch_size / s, "loader_batches": len(batches)}


def _load(settings: Settings, what: str, stop: threading.Event, batches: list[int], clips: int) -> None:
    """Copies a batch of clips to the device in pieces, each waited for, and normalises it."""
    crop = 32 if settings.tiny else 224
    host = torch.zeros(clips, 10, 3, crop, crop, dtype=torch.uint8, pin_memory=settings.cuda and "pinned" in what)
    own = torch.cuda.Stream() if settings.cuda and "own" in what else None
    while not stop.is_set():
        with torch.cuda.stream(own) if own else contextlib.nullcontext():
            for _ in range(_COPIES):
                host.to(settings.device, non_blocking="pinned" in what).float().sub_(127.5).div_(58.0)
                if settings.cuda:
                    (own or torch.cuda.current_stream()).synchronize()
        batches.append(1)
        stop.wait(0.002)
