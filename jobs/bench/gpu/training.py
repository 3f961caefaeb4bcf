"""Training steps as the trainer takes them, and the same forward and backward pass out of a CUDA graph."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from jobs.bench.gpu.settings import Row, Settings
from jobs.bench.gpu.timing import profiled, seconds
from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel, build_model, norm_relu
from pipeline.models.flops import training_flop
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.passes import EagerPasses, Passes
from pipeline.training.recorded import RecordedPasses
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
    """Forward and backward pass are recorded once and replayed, as run.cuda_graph does it."""
    compiled: bool = False
    """torch.compile, as run.compile does it."""


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
    """A function that takes one step as the trainer does; and, of a graph, how far its loss and gradients are from
    those of the same passes without it.

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
    passes = RecordedPasses(model, config, device) if variant.graph else EagerPasses(model, config, device)
    facts = _apart(model, EagerPasses(model, config, device), passes, batch) if variant.graph else {}
    stepper = Stepper(passes, model, optimizer, scheduler, config, device)
    numbers = iter(range(1 << 30))

    def step() -> None:
        stepper(source() if source else batch, next(numbers))

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


def _apart(model: ActionModel, plain: Passes, recorded: Passes, batch: Batch) -> Row:
    """Relative differences of loss and gradient norms with and without the graph, from one state of the random
    numbers.
    """
    drawn = model.draw_steps(torch.Generator().manual_seed(0))
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    for passes in (plain, recorded, recorded):  # recorded, then replayed
        torch.manual_seed(1)
        passes.begin()
        loss, _ = passes(batch, drawn, last=True)
        norms = torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None])
        results.append((loss.double().clone(), norms))
    loss, norms = (float((x - y).norm() / x.norm()) for x, y in zip(results[0], results[-1], strict=True))
    return {"graph_loss_apart": loss, "graph_gradient_norms_apart": norms}
