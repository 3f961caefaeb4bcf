"""When a training ends before its last epoch, and which of its weights are kept."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopConfig:
    """Early stopping on the validation that follows every checkpointed epoch. The run's final checkpoint then has the
    weights of the best validation, whether it stopped early or not.
    """

    patience: int = 0
    """Validations in a row without an improvement after which the run ends; 0: off, the last weights are kept."""
    metric: Literal["loss", "top1"] = "loss"
    """loss: mean negative log of the probability of the right class, of the branches' mean, lower is better; top1:
    share of videos that are right, higher is better. Both with one view.
    """
    min_delta: float = 0.0
    """An improvement is better than the best so far by more than this."""

    def __post_init__(self) -> None:
        require(self.patience >= 0, "stop.patience", self.patience, "must be 0 (off) or more")
        require(self.min_delta >= 0, "stop.min_delta", self.min_delta, "must be 0 or more")
