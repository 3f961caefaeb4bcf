"""Forward and backward pass of one micro-batch, and the sum of gradients over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import branch_probabilities, fuse
from pipeline.models.precision import autocast
from pipeline.training.collective import world_size
from pipeline.training.loss import supervised_loss


class Passes(Protocol):
    """Gradients of a step, micro-batch by micro-batch."""

    def begin(self) -> None:
        """A step begins: gradients are those of what follows."""
        ...

    def __call__(self, batch: Batch, drawn: tuple[int, ...], *, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a micro-batch's gradients; those of its ``last`` one leave the sum over ranks in ``.grad``.

        Returns:
            Its loss, and the summed weight of its clips that were told right; scalars, valid until the next call.
        """
        ...


class EagerPasses:
    """As autograd takes them.

    Args:
        model: the model, or its DistributedDataParallel wrapper.
    """

    def __init__(self, model: torch.nn.Module, config: TrainConfig, device: torch.device) -> None:
        self._model, self._config, self._device = model, config, device
        # Made once: a copy from ordinary memory waits for all that the device has to do.
        self._size = torch.tensor(float(config.data.batch_size), device=device)

    def begin(self) -> None:
        """See ``Passes``."""
        self._model.zero_grad(set_to_none=True)

    def __call__(self, batch: Batch, drawn: tuple[int, ...], *, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Passes``."""
        with contextlib.nullcontext() if last else self._alone():
            with autocast(self._config.run.precision, self._device):
                outputs = self._model(batch.inputs, steps=drawn)
            loss, correct = judged(outputs, batch.labels, batch.weights, self._size, self._config)
            (loss * world_size()).backward()  # DDP takes the mean over ranks
        return loss.detach(), correct

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Gradients stay on their rank: they are exchanged once a step, with its last micro-batch."""
        return (
            self._model.no_sync()
            if isinstance(self._model, torch.nn.parallel.DistributedDataParallel)
            else contextlib.nullcontext()
        )


def judged(
    outputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    weights: torch.Tensor,
    size: torch.Tensor,
    config: TrainConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a micro-batch over the ``size`` of the global batch, and the weight of the clips that were told right."""
    loss = supervised_loss(outputs, labels, weights, size, config.optim.label_smoothing)
    with torch.no_grad():
        guess = fuse(branch_probabilities(outputs)).argmax(1)
        return loss, ((guess == labels) * weights).sum()
