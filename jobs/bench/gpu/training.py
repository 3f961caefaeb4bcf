"""Training steps as the trainer takes them, and the same forward and backward pass out of a CUDA graph."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from jobs.bench.gpu.settings import Row, Settings
from jobs.bench.gpu.timing import profiled, seconds
from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel, build_model, norm_relu
from pipeline.models.flops import training_flop
from pipeline.models.precision import autocast
from pipeline.training.loss import supervised_loss
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.step import Stepper, move_to

PEAK_FLOPS = 989e12
"""Dense bf16 of an H100 or H200 (SXM) by its data sheet: MFU is a share of it."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a step differs from the trainer's."""

    plain: bool = False
    """Weights in the order of their dimensions, algorithms of cuDNN's own choice, optimisers that are not fused."""
    torch_norm: bool = False
    """Batch normalisation and ReLU by torch's kernels."""
    fused: bool = False
    """One kernel for the optimiser, whichever it is."""
    graph: bool = False
    """Forward and backward pass are recorded once and replayed; the update is as ever."""
    compiled: bool = False
    """torch.compile, as run.compile does it."""
    cache_casts: bool = True
    """A weight is cast to bf16 once a step; off: once a use."""


def step_row(config: TrainConfig, classes: int, variant: Variant, settings: Settings) -> Row:
    """One training step of ``config.data.batch_size`` clips that lie on the device: time, launches, rate, MFU."""
    step, facts = training_step(config, classes, variant, settings)
    s = seconds(step, settings)
    batch = config.data.batch_size
    flop = batch * _flop(config.model, classes, config.clip.crop)
    return {
        "batch": batch,
        "ms": 1000 * s,
        "clips_per_s": batch / s,
        "tflops": flop / s / 1e12,
        "mfu": flop / s / PEAK_FLOPS,
        **facts,
        **profiled(step, settings, top=30),
    }


@functools.cache
def _flop(model: ModelConfig, classes: int, crop: int) -> int:
    return training_flop(model, classes, crop)


def training_step(
    config: TrainConfig,
    classes: int,
    variant: Variant,
    settings: Settings,
    source: Callable[[], Batch] | None = None,
) -> tuple[Callable[[], None], Row]:
    """A function that takes one step: the trainer's ``Stepper``, or its work with the passes out of a graph; and, of a
    graph, how far its loss and gradients are from those of the same passes without it.

    Args:
        source: gives each step's batch; by default the same one each time.
    """
    torch.manual_seed(0)
    device = settings.device
    norm_relu.FUSED = not (variant.torch_norm or variant.plain)
    with torch.device(device):
        model = build_model(config.model, num_classes=classes, crop=config.clip.crop).train()
    if variant.plain:
        torch.backends.cudnn.benchmark = False
    else:
        move_to(device, model)
    if variant.compiled:
        model.compile_training()
    optimizer = build_optimizer(model, config)
    if variant.fused or variant.plain:
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = variant.fused, None if variant.plain else False
    scheduler = build_scheduler(optimizer, config, 1000 * config.optim.epochs)
    batch = drawn_batch(model, config, device)
    stepper = Stepper(model, model, optimizer, scheduler, config, device)
    if not variant.graph:
        numbers = iter(range(1 << 30))

        def whole_step() -> None:
            stepper(source() if source else batch, next(numbers))

        return whole_step, {}
    replay, facts = recorded(model, batch, config, settings, variant)
    stepper._weight = batch.weights.sum()

    def step() -> None:
        stepper._loss = replay()
        stepper._update(batch, 0)

    return step, facts


def drawn_batch(model: ActionModel, config: TrainConfig, device: torch.device) -> Batch:
    """Normally distributed clips in the memory order that the loader gives."""
    size, crop = config.data.batch_size, config.clip.crop
    inputs = {
        m: torch.randn(size, model.num_steps, crop, crop, model.channels[m], device=device).permute(0, 1, 4, 2, 3)
        for m in model.modalities
    }
    labels = torch.arange(size, device=device) % 5
    keys = tuple(f"k{i}" for i in range(size))
    return Batch(inputs, labels, torch.ones(size, device=device), keys, 0, 0)


def recorded(
    model: ActionModel, batch: Batch, config: TrainConfig, settings: Settings, variant: Variant
) -> tuple[Callable[[], torch.Tensor], Row]:
    """Forward and backward pass of a batch as one CUDA graph; a call replays it and returns the loss. The supervised
    steps are a tensor, so that every draw is the same graph. On the CPU, which has no graphs, the passes themselves.
    And the relative differences of loss and gradients with and without the graph, from one state of the random numbers.
    """
    steps = model.draw_steps(torch.Generator().manual_seed(0))
    drawn = torch.tensor(steps, device=settings.device)
    size = torch.tensor(float(len(batch)), device=settings.device)

    def passes() -> torch.Tensor:
        for parameter in model.parameters():
            parameter.grad = None
        with _autocast(config, settings, variant):
            outputs = model.scores(batch.inputs, drawn)
        loss = supervised_loss(outputs, batch.labels, batch.weights, size, config.optim.label_smoothing)
        loss.backward()
        return loss.detach()

    def result(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        loss = work().double()
        return loss, torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None])

    if not settings.cuda:
        return passes, _apart(result(passes), result(passes))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            passes()
    torch.cuda.current_stream().wait_stream(stream)
    plain = result(passes)
    graph = torch.cuda.CUDAGraph()
    for parameter in model.parameters():
        parameter.grad = None
    with torch.cuda.graph(graph):
        loss = passes()

    def replay(_reads: object = (drawn, size, batch)) -> torch.Tensor:
        """Holds what the graph reads by address: freed, it would become other tensors' memory."""
        graph.replay()
        return loss

    return replay, _apart(plain, result(replay))


def _apart(plain: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> Row:
    loss, norms = (float((x - y).norm() / x.norm()) for x, y in zip(plain, other, strict=True))
    return {"graph_loss_apart": loss, "graph_gradient_norms_apart": norms}


def _autocast(config: TrainConfig, settings: Settings, variant: Variant) -> contextlib.AbstractContextManager[Any]:
    if variant.cache_casts:
        return autocast(config.run.precision, settings.device)
    return torch.autocast(settings.device.type, dtype=torch.bfloat16, cache_enabled=False)
