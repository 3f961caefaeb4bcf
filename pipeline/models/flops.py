"""The floating-point operations of a model, by torch's counter: 2 for a multiply-add, element-wise work left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.model import ModelConfig
from pipeline.models.build import build_model
from pipeline.models.interface import ActionModel

_TRAINING_FACTOR = 3  # forward and backward: a product has two gradients, each as large as itself


def forward_flop(model: ActionModel, inputs: Mapping[str, Tensor]) -> int:
    """FLOP of a forward pass; on meta tensors nothing is computed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops()


def training_flop(config: ModelConfig, num_classes: int, crop: int) -> int:
    """FLOP of a training step (forward and backward) for one clip: three forward passes, as MFU is usually counted."""
    with torch.device("meta"):
        model = build_model(config, num_classes=num_classes, crop=crop).train()
        shapes = {m: (1, model.num_steps, model.channels[m], crop, crop) for m in model.modalities}
        return _TRAINING_FACTOR * forward_flop(model, {m: torch.empty(shape) for m, shape in shapes.items()})
