"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math

import torch

from pipeline.config.train import OptimConfig


def build_optimizer(groups: dict[str, list[torch.nn.Parameter]], config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or Adam over ``{"backbone": [...], "head": [...]}``, each with its own learning rate. L2 applies to
    all weights, as in the papers.
    """
    lr = {"backbone": config.backbone_lr, "head": config.lr}
    parameters = [{"params": params, "lr": lr[name], "name": name} for name, params in groups.items() if params]
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)


def lr_factor(config: OptimConfig, total_steps: int, step: int) -> float:
    """Multiplier of every learning rate at ``step`` (0-based): linear warm-up, then constant or half a cosine to
    0.01.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(1, total_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """``lr_factor`` as a torch scheduler; step it once after every optimiser step.

    LambdaLR rather than LinearLR and CosineAnnealingLR in a SequentialLR: those compute each rate from the one before,
    so most rates differ in the last bits, and their state does not fit the checkpoints of older runs.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, total_steps, step))
