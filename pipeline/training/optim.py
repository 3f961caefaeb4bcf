"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from pipeline.config.train import TrainConfig
from pipeline.models.interface import ActionModel
from pipeline.models.transfer import classifier_names


def build_optimizer(model: ActionModel, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam over the groups of ``parameter_groups``; Adam in one kernel where the parameters are on a GPU, which
    otherwise fetches every parameter's count of steps.
    """
    optim, groups = config.optim, parameter_groups(model, config)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    fused = True if any(parameter.is_cuda for group in groups for parameter in group["params"]) else None
    return torch.optim.Adam(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=fused)


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Lay averages out in memory as their parameters, which may be channels-last now and not have been when they were
    stored: kernels over many tensors want one order.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, torch.Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parameter_groups(model: ActionModel, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters for a torch optimiser, each in one group with its learning rate and L2.

    By default there are the two groups of ``ActionModel.parameter_groups``, with L2 on all weights, as in the papers.
    Multipliers and ``weight_decay_on`` split them further. Groups are named "head", "backbone/first_conv/bias" and so
    on; the plain ones come last, so that the last one's rate is ``optim.lr``.
    """
    optim, scale = config.optim, config.optim.scale(config.data.batch_size)
    multipliers = _multipliers(model, config)
    special, plain = {}, {}
    for role, parameters in model.parameter_groups().items():
        for parameter in parameters:
            part, multiplier = multipliers.get(id(parameter), ("", 1.0))
            # One dimension: biases, and scales and shifts of normalisation layers.
            bare = optim.weight_decay_on == "weights" and parameter.ndim <= 1
            name = "/".join(word for word in (role, part, "bias" if bare else "") if word)
            lr = {"backbone": optim.backbone_lr, "head": optim.lr}[role] * scale * multiplier
            group = {"params": [], "lr": lr, "name": name, **({"weight_decay": 0.0} if bare else {})}
            (plain if name == role else special).setdefault(name, group)["params"].append(parameter)
    return [*special.values(), *plain.values()]


def _multipliers(model: ActionModel, config: TrainConfig) -> dict[int, tuple[str, float]]:
    """By a parameter's id: the part of the model whose rate is multiplied, and by what."""
    found: dict[int, tuple[str, float]] = {}
    if (by := config.optim.first_conv_multiplier) != 1:
        convolutions = model.first_convolutions()
        for modality, layers in convolutions.items():
            if modality != "rgb" or len(convolutions) == 1:
                found |= {id(p): ("first_conv", by) for layer in layers for p in layer.parameters()}
    if (by := config.optim.classifier_multiplier) != 1:
        named = dict(model.named_parameters())
        for name in classifier_names(config.model, crop=config.clip.crop):
            found[id(named[name])] = ("classifier", by)
    return found


def lr_factor(config: TrainConfig, total_steps: int, step: int) -> float:
    """Multiplier of every learning rate at ``step`` (0-based): linear warm-up, then the schedule.

    The warm-up to rates that ``optim.reference_batch`` raised begins at the rates as they were (Goyal et al., Accurate,
    Large Minibatch SGD, section 2.2); any other at one warm-up step's share of the rates.

    Args:
        total_steps: of the whole run: the steps of an epoch times ``optim.epochs``.
    """
    optim, steps_per_epoch = config.optim, total_steps // config.optim.epochs
    scale = optim.scale(config.data.batch_size)
    warmup = optim.warmup(config.data.batch_size, steps_per_epoch)
    if step < warmup:
        return (1 + (scale - 1) * step / warmup) / scale if scale > 1 else (step + 1) / warmup
    if optim.schedule == "step":
        return optim.decay_factor ** sum(step >= epoch * steps_per_epoch for epoch in optim.decay_epochs)
    if optim.schedule == "constant":
        return 1.0
    span = max(1, total_steps - 1 - warmup)
    progress = min(1.0, (step - warmup) / span)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """``lr_factor`` as a torch scheduler; step it once after every optimiser step.

    LambdaLR rather than LinearLR and CosineAnnealingLR in a SequentialLR: those compute each rate from the one before,
    so most rates differ in the last bits, and their state does not fit the checkpoints of older runs.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, total_steps, step))
