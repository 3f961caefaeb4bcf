"""The weights that a run is judged by: those it trains, or a moving average of them.

A checkpoint of a run with ``optim.ema_decay`` holds both, so that evaluation, prediction and registration need to know
nothing of it:

    model.safetensors     the average
    trained.safetensors   the weights that training goes on with
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.models import ActionModel
from pipeline.training.checkpoint import load_weights
from pipeline.training.collective import average_buffers
from pipeline.training.host_copies import HostCopies

TRAINED = "trained.safetensors"


def decay_after(updates: int, decay: float) -> float:
    """The decay of the next update: min(decay, (1 + n) / (10 + n)) after n updates, so that the random weights of the
    beginning are soon forgotten, also in a run shorter than 1 / (1 - decay). The first update copies the weights.
    """
    return min(decay, (1 + updates) / (10 + updates))


class JudgedWeights:
    """Follows a model in training, on every rank.

    Args:
        model: on its device, before it is compiled or wrapped.
        decay: of the average of weights and running statistics; 0: there is none, and the model itself is judged.
    """

    def __init__(self, model: ActionModel, decay: float) -> None:
        self._model, self._average = model, _averaged(model, decay) if decay else None

    @property
    def model(self) -> ActionModel:
        """To validate, and to store as the run's weights."""
        return self._model if self._average is None else cast(ActionModel, self._average.module)

    def update(self) -> None:
        """Take the weights after a step into the average."""
        if self._average is not None:
            self._average.update_parameters(self._model)

    def average_buffers(self) -> None:
        """Collective: give every rank the same running statistics, in the trained and in the judged weights."""
        average_buffers(self._model)
        if self._average is not None:
            average_buffers(self._average.module)

    def snapshot(self, copies: HostCopies) -> Callable[[Path], None]:
        """Copy the trained weights where they are not the judged ones; the function that is returned writes them."""
        if self._average is None:
            return lambda folder: None
        named = self._model.state_dict().items()
        weights = {name: copies.copy(tensor, f"trained.{name}", contiguous=True) for name, tensor in named}
        copies.settle()
        return lambda folder: safetensors.torch.save_file(weights, folder / TRAINED)

    def restore(self, folder: Path, steps: int) -> None:
        """Read what ``snapshot`` wrote; the average itself has been loaded into ``model``.

        Args:
            steps: that the run has taken.

        Raises:
            UserError: the file is missing, damaged, or another model's.
        """
        if self._average is not None:
            load_weights(folder, self._model, TRAINED)
            self._average.n_averaged.fill_(steps)

    def finish(self) -> None:
        """Give the trained model the judged weights."""
        if self._average is not None:
            self._model.load_state_dict(self._average.module.state_dict())


def _averaged(model: ActionModel, decay: float) -> AveragedModel:
    def update(averages: list[torch.Tensor], current: list[torch.Tensor], _: object) -> None:
        if not averages[0].is_floating_point():  # counters of batches
            torch._foreach_copy_(averages, current)
            return
        # Read from the CPU: the number in the third argument is on the device, and would have to be waited for.
        get_ema_multi_avg_fn(decay_after(int(average.n_averaged), decay))(averages, current, 0)  # pyright: ignore[reportArgumentType]

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)  # pyright: ignore[reportArgumentType]
    average.module.eval().requires_grad_(False)
    return average
