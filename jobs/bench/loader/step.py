"""How long a GPU waits for our loader: training steps fed by it, against steps that find their batch in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from jobs.recipes import find_recipe
from pipeline.config.model import CRNConfig
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader
from pipeline.models import build_model
from pipeline.models.precision import autocast
from pipeline.training.loss import supervised_loss

_WARM_STEPS = 5  # cuDNN has chosen its kernels, the allocator has its blocks


@dataclasses.dataclass(frozen=True)
class FeedingTimes:
    """Seconds a step: with a batch that lies on the GPU, and with our loader."""

    resident_s: float
    fed_s: float
    steps: int
    batch_size: int

    @property
    def wait_share(self) -> float:
        """Share of a fed step in which the GPU did no training: waiting, copying, or decoding in its place."""
        return max(0.0, 1 - self.resident_s / self.fed_s)


def full_size(modalities: tuple[str, ...], num_frames: int, stack: int) -> CRNConfig:
    """The CRN of ``crn_bninception`` for these inputs. ConfigError where a CRN cannot take them."""
    model = find_recipe("crn_bninception").model
    assert isinstance(model, CRNConfig)
    alone = len(modalities) == 1
    return dataclasses.replace(
        model,
        modalities=modalities,
        num_steps=num_frames,
        stack=stack,
        partner="off" if alone else model.partner,
        rib="none" if alone else model.rib,
    )  # type: ignore[arg-type]


def time_steps(
    loader: Loader, model_config: CRNConfig, *, num_classes: int, crop: int, steps: int, device: torch.device
) -> FeedingTimes:
    """Train from random weights: ``steps`` steps on one resident batch, then as many fed by the loader.

    Args:
        loader: of training clips, on ``device`` or on the CPU; its epoch is begun again where it ends.
    """
    step = _step(model_config, num_classes, crop, device)
    with contextlib.closing(_endless(loader)) as batches:  # type: ignore[type-var]
        batch = next(batches).to(device, non_blocking=True)
        step(batch)
        for _ in range(_WARM_STEPS - 1):
            batch = next(batches).to(device, non_blocking=True)
            step(batch)
        for _ in range(_WARM_STEPS):
            step(batch)  # while the loader fills its queue, and then rests
        resident_s = _seconds(lambda: step(batch), steps, device)
        next(batches)  # those that were ready while the loader was not asked
        for _ in range(_WARM_STEPS):
            step(next(batches).to(device, non_blocking=True))
        fed_s = _seconds(lambda: step(next(batches).to(device, non_blocking=True)), steps, device)
    return FeedingTimes(resident_s, fed_s, steps, len(batch))


def _step(config: CRNConfig, num_classes: int, crop: int, device: torch.device) -> Callable[[Batch], None]:
    torch.manual_seed(0)
    model = build_model(config, num_classes=num_classes, crop=crop).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    drawn = model.draw_steps(torch.Generator().manual_seed(0))

    def step(batch: Batch) -> None:
        with autocast("auto", device):
            outputs = model(batch.inputs, steps=drawn)
        loss = supervised_loss(outputs, batch.labels, batch.weights, batch.weights.sum(), 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _seconds(work: Callable[[], None], steps: int, device: torch.device) -> float:
    _wait_for(device)
    start_s = time.perf_counter()
    for _ in range(steps):
        work()
    _wait_for(device)
    return (time.perf_counter() - start_s) / steps


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        with contextlib.closing(loader.iter_epoch(epoch)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if bool(batch.weights.all()):  # a step of another size would be timed with the others
                    yield batch
        epoch += 1
