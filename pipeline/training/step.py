"""One optimisation step."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.errors import ReciprocalError
from pipeline.models import ActionModel, branch_probabilities, fuse
from pipeline.models.precision import autocast
from pipeline.training.collective import sum_over_ranks, world_size
from pipeline.training.loss import supervised_loss


def derived_seed(*parts: object) -> int:
    """63-bit seed from any printable parts; equal parts, equal seed, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@dataclasses.dataclass
class Sums:
    """Running sums of what a curve shows, on the device, so that a step waits for nothing."""

    values: torch.Tensor  # loss, weight, correct, gradient norm, steps

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        return cls(torch.zeros(5, device=device, dtype=torch.float64))

    def means(self) -> dict[str, float]:
        """Collective: means over all ranks since the last call, then start again."""
        loss, weight, correct, norm, steps = sum_over_ranks(self.values.clone()).tolist()
        self.values.zero_()
        ranks = world_size()
        return {"loss": loss / max(steps / ranks, 1), "top1": correct / max(weight, 1e-12), "grad_norm": norm / max(steps, 1)}


class Stepper:
    """Forward, loss, backward, clip, update; the same numbers whatever the number of ranks.

    Args:
        model: the model, or its DistributedDataParallel wrapper.
        core: the bare model.
        config: of the run.
        rank: this process; dropout differs between ranks, the drawn supervision steps do not.
    """

    def __init__(self, model: torch.nn.Module, core: ActionModel, optimizer: torch.optim.Optimizer, scheduler: Any, config: TrainConfig, device: torch.device, rank: int) -> None:
        self.model, self.core, self.optimizer, self.scheduler = model, core, optimizer, scheduler
        self.config, self.device, self.rank = config, device, rank
        self.sums = Sums.zero(device)

    def __call__(self, batch: Batch, global_step: int) -> None:
        """One update from this rank's part of global batch ``global_step``.

        Raises:
            ReciprocalError: the loss is not finite; names the step and the keys of the batch.
        """
        seed = self.config.run.seed
        torch.manual_seed(derived_seed("step", seed, global_step, self.rank))
        drawn = self.core.draw_steps(torch.Generator().manual_seed(derived_seed("supervision", seed, global_step)))
        total_weight = sum_over_ranks(batch.weights.sum())
        with autocast(self.config.run.precision, self.device):
            outputs = self.model(batch.inputs, steps=drawn)
        loss = supervised_loss(outputs, batch.labels, batch.weights, total_weight, self.config.optim.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * world_size()).backward()  # DDP takes the mean over ranks; the loss is already divided by the global weight
        limit = self.config.optim.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.core.parameters(), limit)
        if not torch.isfinite(norm):
            raise ReciprocalError(f"loss {loss.item():.3g} or gradient norm {norm.item():.3g} is not finite at step {global_step}, samples {', '.join(batch.keys[:4])}...: lower optim.lr or optim.clip_norm")
        self.optimizer.step()
        self.scheduler.step()
        with torch.no_grad():
            guess = fuse(branch_probabilities(outputs)).argmax(1)
            correct = ((guess == batch.labels) * batch.weights).sum()
            self.sums.values += torch.stack([loss.detach().double(), batch.weights.sum().double(), correct.double(), norm.double(), torch.ones((), dtype=torch.float64, device=self.device)])
