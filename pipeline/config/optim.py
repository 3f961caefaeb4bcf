"""Optimiser, learning rates and what follows from them."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from pipeline.config.base import require

_WARMUP_EPOCHS, _WARMUP_SHARE = 5.0, 0.2  # of a run whose rates were scaled up and that names no warm-up


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule."""

    name: Literal["sgd", "adam"] = "sgd"
    lr: float = 1e-2
    """Of everything but the backbone."""
    backbone_lr: float = 1e-3
    reference_batch: int = 0
    """The global batch that the learning rates are meant for. They are multiplied by data.batch_size / reference_batch,
    and where that raises them, the warm-up begins at the unscaled rates and lasts 5 epochs (at most a fifth of the run)
    unless the run names another. 0: off, the rates are used as they stand.
    """
    classifier_multiplier: float = 1.0
    """Of the classifier's learning rate (TSM: 5)."""
    first_conv_multiplier: float = 1.0
    """Of the learning rate of the first convolution of each branch that sees motion, whose pre-trained weights come
    from pictures (TSM: 5); in a model of one branch, of that branch's.
    """
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """L2, on all parameters or on some (weight_decay_on)."""
    weight_decay_on: Literal["all", "weights"] = "all"
    """weights: biases, and the scales and shifts of normalisation layers, have no L2."""
    clip_norm: float = 20.0
    """Largest norm of the whole gradient; 0: no limit."""
    epochs: int = 30
    warmup_steps: int = 0
    """Learning rates rise linearly over these steps."""
    warmup_epochs: float = 0.0
    """The same in epochs."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """After the warm-up: unchanged; half a cosine down to 1 % at the last step; multiplied by decay_factor at each of
    decay_epochs.
    """
    decay_epochs: tuple[int, ...] = ()
    """Of schedule step: epochs, counted from 0, at whose first step the learning rates fall."""
    decay_factor: float = 0.1
    """Of schedule step."""
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.9999: validation, evaluation and registration
    use the average. 0: off.
    """

    def __post_init__(self) -> None:
        for name in ("lr", "backbone_lr", "classifier_multiplier", "first_conv_multiplier"):
            require(getattr(self, name) > 0, f"optim.{name}", getattr(self, name), "must be positive")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            require(0 <= getattr(self, name) < 1, f"optim.{name}", getattr(self, name), "must be in [0, 1)")
        for name in ("weight_decay", "warmup_steps", "warmup_epochs"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must be 0 or more")
        for name in ("clip_norm", "reference_batch"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must be 0 (off) or more")
        require(self.epochs >= 1, "optim.epochs", self.epochs, "must be at least 1")
        both = self.warmup_steps and self.warmup_epochs
        fix = f"a run has one warm-up: leave this out, or optim.warmup_steps = {self.warmup_steps}"
        require(not both, "optim.warmup_epochs", self.warmup_epochs, fix)
        fix = f"must be less than the {self.epochs} epochs of the run (optim.epochs)"
        require(self.warmup_epochs < self.epochs, "optim.warmup_epochs", self.warmup_epochs, fix)
        self._check_steps()

    def _check_steps(self) -> None:
        name, given = "optim.decay_epochs", self.decay_epochs
        if self.schedule == "step":
            require(bool(given), name, given, "schedule step needs the epochs at which the rates fall, such as 20 40")
        else:
            fix = f"schedule {self.schedule} has none: use optim.schedule step, or leave this out"
            require(not given, name, given, fix)
        if given:
            fix = f"must end before the rates first fall (optim.decay_epochs), at epoch {given[0]}"
            require(self.warmup_epochs <= given[0], "optim.warmup_epochs", self.warmup_epochs, fix)
        ascending = list(given) == sorted(set(given)) and all(0 < epoch < self.epochs for epoch in given)
        fix = (
            f"must be ascending and within 1..{self.epochs - 1}, since the run has {self.epochs} epochs (optim.epochs)"
        )
        require(ascending, name, given, fix)
        require(0 < self.decay_factor < 1, "optim.decay_factor", self.decay_factor, "must be in (0, 1)")

    def scale(self, batch_size: int) -> float:
        """What a global batch of ``batch_size`` clips multiplies the learning rates by."""
        return batch_size / self.reference_batch if self.reference_batch else 1.0

    def warmup(self, batch_size: int, steps_per_epoch: int) -> int:
        """Steps of the warm-up."""
        epochs = self.warmup_epochs
        if not epochs and not self.warmup_steps and self.scale(batch_size) > 1:
            epochs = min(_WARMUP_EPOCHS, _WARMUP_SHARE * self.epochs, *self.decay_epochs[:1])
        return math.ceil(epochs * steps_per_epoch) if epochs else self.warmup_steps
