"""One optimisation step."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel
from pipeline.models.dropout import place_clips
from pipeline.training.ask import Ask, Asker, never
from pipeline.training.collective import sum_over_ranks, world_size
from pipeline.training.passes import Passes
from pipeline.training.verdict import Verdicts


def derived_seed(*parts: object) -> int:
    """63-bit seed from any printable parts; equal parts, equal seed, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def move_to(device: torch.device, model: ActionModel) -> None:
    """Move a model to the device it trains on; on a GPU with weights in the order of the clips, which come
    channels-last and in one shape, for which cuDNN chooses its algorithms by measurement.
    """
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        torch.backends.cudnn.benchmark = True


@dataclasses.dataclass
class Sums:
    """Running sums of what a curve shows, on the device, so that no step waits for them."""

    values: torch.Tensor  # loss, weight, correct, gradient norm, steps

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        return cls(torch.zeros(5, device=device, dtype=torch.float64))

    def means(self) -> dict[str, float]:
        """Collective: means over all ranks since the last call, then start again."""
        loss, weight, correct, norm, steps = sum_over_ranks(self.values.clone()).tolist()
        self.values.zero_()
        ranks = world_size()
        return {
            "loss": loss / max(steps / ranks, 1),
            "top1": correct / max(weight, 1e-12),
            "grad_norm": norm / max(steps, 1),
        }


class Stepper:
    """Forward, loss, backward, clip, update; the same numbers whatever the number of ranks.

    Args:
        passes: gradients of the model's micro-batches.
        core: the bare model.
        config: of the run.
        ask: what this rank asks of the loop, called before every update.

    Dropout belongs to the clips of the global batch (``ClipDropout``), the drawn supervision steps to the batch.
    """

    def __init__(
        self,
        passes: Passes,
        core: ActionModel,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        config: TrainConfig,
        device: torch.device,
        ask: Asker = never,
    ) -> None:
        self.core, self.optimizer, self.scheduler = core, optimizer, scheduler
        self.config, self.device = config, device
        self._loss = self._weight = self._correct = torch.zeros((), device=device)  # of the step's micro-batches so far
        self.sums = Sums.zero(device)
        self._passes, self._ask = passes, ask
        self._verdicts = Verdicts(device)
        self.asked = Ask.NONE
        """What the ranks asked for, the same on all of them: at the latest complete step, on a GPU at the one before it
        until ``settle``.
        """
        # Made once: a copy from ordinary memory waits for all that the device has to do.
        self._wishes = {a: torch.tensor([float(a == Ask.SAVE), float(a == Ask.LEAVE)], device=device) for a in Ask}

    def __call__(self, batch: Batch, global_step: int) -> bool:
        """Take one micro-batch of global batch ``global_step`` through the model; update after its last one.

        Gradients of the micro-batches add up as sums over clips and are divided by the weight of the whole global
        batch, which is known at the end: a damaged clip, wherever it is, leaves the others' weights as they are.

        Returns:
            Whether the step is complete.

        Raises:
            NotFiniteError: the loss is not finite; names the step and the keys of the batch. On a GPU it is raised at
                the next step, or by ``settle`` or ``saving``.
        """
        seed, complete = self.config.run.seed, batch.ends_step
        size = self.config.data.batch_size
        torch.manual_seed(derived_seed("step", seed, global_step))  # the same for all ranks and micro-batches
        place_clips(self.core, batch.offset, len(batch.labels), size, self.device)
        drawn = self.core.draw_steps(torch.Generator().manual_seed(derived_seed("supervision", seed, global_step)))
        first = batch.micro_batch_index == 0
        if first:
            self._passes.begin()
            self._loss, self._weight = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        loss, correct = self._passes(batch, drawn, last=complete)
        with torch.no_grad():
            self._loss += loss
            self._weight += batch.weights.sum()
            self._correct = correct + (0 if first else self._correct)
        if complete:
            self._update(batch, global_step)
        return complete

    def settle(self) -> None:
        """Wait for the latest step, and hear what was asked for at it. Raises NotFiniteError."""
        self._verdicts.settle()
        self.asked = max(self.asked, self._verdicts.hear())

    def saving(self) -> None:
        """Before a checkpoint of the latest step is made. Raises NotFiniteError."""
        self._verdicts.saving()

    def _update(self, batch: Batch, global_step: int) -> None:
        size, own_weight = self.config.data.batch_size, self._weight
        # What the ranks ask for travels with the sum of their weights: all learn of it at the same step, at no cost.
        sums = sum_over_ranks(torch.cat([own_weight[None], self._wishes[self._ask()]]))
        scale = size / sums[0].clamp(min=1e-12)
        torch._foreach_mul_([p.grad for p in self.core.parameters() if p.grad is not None], scale)
        limit = self.config.optim.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.core.parameters(), limit)
        self._verdicts.put(torch.cat([torch.stack([self._loss * scale, norm]), sums[1:]]), global_step, batch.keys)
        self.asked = self._verdicts.hear()
        self.optimizer.step()
        self.scheduler.step()
        with torch.no_grad():
            one = torch.ones((), dtype=torch.float64, device=self.device)
            self.sums.values += torch.stack(
                [(self._loss * scale).double(), own_weight.double(), self._correct.double(), norm.double(), one]
            )
