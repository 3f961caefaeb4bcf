"""What a rank's memory and a checkpoint will hold, from shapes alone: no weights, no GPU."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.models.batchnorm import batchnorms, freeze_batchnorm
from pipeline.models.build import build_model
from pipeline.training.loss import supervised_loss

_CLIPS = 2  # that activations are counted with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes."""

    weights: int
    """Parameters and running statistics."""
    gradients: int
    optimizer: int
    average: int
    """The moving average of the weights (optim.ema_decay)."""
    activations: int
    """What autograd keeps of one micro-batch for its backward pass, and two gradients as large as the largest of it."""
    checkpoint: int
    """The files of a checkpoint."""

    @property
    def memory(self) -> int:
        """All but the batches, and what libraries take for themselves and for a moment."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


def footprint(config: TrainConfig, num_classes: int, clips: int, *, bf16: bool = False) -> Footprint:
    """Count what a rank holds.

    Args:
        clips: of a micro-batch on one rank.
        bf16: autocast to bfloat16: activations have half the size, and the weights are held in both sizes.
    """
    parameters, state, _, _ = _shapes(config.model, num_classes, config.clip.crop, config.run.freeze_batchnorm)
    optimizer = parameters * (2 if config.optim.name == "adam" else int(config.optim.momentum > 0))
    average = state if config.optim.ema_decay else 0
    activations = clips * _activations_of_a_clip(config.model, num_classes, config.clip.crop)
    return Footprint(
        weights=state,
        gradients=parameters,
        optimizer=optimizer,
        average=average,
        activations=activations // 2 + parameters // 2 if bf16 else activations,
        checkpoint=state + optimizer + average + (state if config.stop.patience else 0),
    )


def learning_norms(config: TrainConfig, num_classes: int) -> tuple[int, int]:
    """Layers of batch normalisation that take the statistics of the batch, and all there are."""
    return _shapes(config.model, num_classes, config.clip.crop, config.run.freeze_batchnorm)[2:]


@functools.cache
def _shapes(model: ModelConfig, num_classes: int, crop: int, frozen: bool) -> tuple[int, int, int, int]:
    """Bytes of parameters that learn, and of all parameters and running statistics; what ``learning_norms`` returns."""
    with torch.device("meta"):
        network = build_model(model, num_classes=num_classes, crop=crop).train()
    if frozen:
        freeze_batchnorm(network)
    layers = batchnorms(network)
    learning = sum(layer.training for layer in layers)
    learned = _size(p for p in network.parameters() if p.requires_grad)
    return learned, _size(network.state_dict().values()), learning, len(layers)


@functools.cache
def _activations_of_a_clip(model: ModelConfig, num_classes: int, crop: int) -> int:
    """Bytes that a backward pass needs for each clip in float32: what autograd keeps, and the gradients of a layer's
    output and input while both are there. Tensors that share memory count once, weights and inputs not at all.
    """
    kept: dict[int, torch.Tensor] = {}  # the tensors themselves, so that no other gets the place of one that is gone

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(_place(tensor), tensor)
        return tensor

    # Tensors that claim to be on the CPU, so that maps have the memory layouts they have where a model runs.
    with FakeTensorMode():
        network = build_model(model, num_classes=num_classes, crop=crop).train()
        inputs = {
            m: torch.empty(_CLIPS, network.num_steps, network.channels[m], crop, crop) for m in network.modalities
        }
        labels, weights = torch.zeros(_CLIPS, dtype=torch.int64), torch.ones(_CLIPS)
        others = [*network.state_dict(keep_vars=True).values(), *inputs.values(), labels, weights]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = network(inputs, steps=_last_steps(network.num_steps, model))
            supervised_loss(outputs, labels, weights, torch.tensor(1.0))
        known = {_place(tensor) for tensor in others}
        sizes = [t.untyped_storage().nbytes() for place, t in kept.items() if place not in known]
    return (sum(sizes) + 2 * max(sizes)) // _CLIPS


def _last_steps(num_steps: int, model: ModelConfig) -> tuple[int, ...]:
    """As many steps as training supervises; which ones does not matter for the size."""
    count = {"a": 1, "b": num_steps, "c": 2, "d": 3}.get(getattr(model, "strategy", "a"), 1)
    return tuple(range(num_steps - count, num_steps))


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
