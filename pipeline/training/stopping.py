"""Early stopping: the score of every validation, the weights of the best one, and when that is enough.

A checkpoint keeps both, so that a resumed run decides as one that was never stopped:

    stopping.json       scores so far, and the metrics of the best validation
    best.safetensors    weights of the best validation
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline.common.strict_json import JsonError, read_json
from pipeline.common.words import counted
from pipeline.config.stop import StopConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.training.collective import gather_objects
from pipeline.training.host_copies import HostCopies

log = logging.getLogger(__name__)

_STATE, _BEST = "stopping.json", "best.safetensors"


def metric_name(split: str, metric: str) -> str:
    """Name of a metric of the validation during training: one view of every video."""
    return f"{split}/{metric}_1x1"


def best_of(scores: Sequence[float], config: StopConfig) -> int:
    """Position of the best score: the last that was better than all before it by more than ``min_delta``. A score that
    is not a number never is; -1 where there is no score yet, or none that is a number.
    """
    sign, best = 1 if config.metric == "top1" else -1, -1
    for i, score in enumerate(scores):
        if math.isfinite(score) and (best < 0 or sign * (score - scores[best]) > config.min_delta):
            best = i
    return best


def is_over(scores: Sequence[float], config: StopConfig) -> bool:
    """Whether the last ``patience`` scores brought no improvement."""
    return bool(config.patience) and len(scores) - 1 - best_of(scores, config) >= config.patience


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Saved:
    """What ``stopping.json`` holds."""

    epochs: tuple[int, ...]
    scores: tuple[float | None, ...]  # None: not a number
    best_metrics: dict[str, Any]


class EarlyStopping:
    """Follows the validations of one run, on every rank; without ``stop.patience`` it does nothing.

    ``add`` and ``finish`` are called by every rank at the same place. Rank 0's scores decide for all.
    """

    def __init__(self, config: TrainConfig, rank: int) -> None:
        self._config, self._rank = config.stop, rank
        self._name = metric_name(config.data.validation, config.stop.metric)
        self._epochs: list[int] = []
        self._scores: list[float] = []
        self._best_metrics: dict[str, float] = {}
        self._best_weights: dict[str, torch.Tensor] = {}

    @property
    def stopped(self) -> bool:
        """Whether the run is over."""
        return is_over(self._scores, self._config)

    def add(self, metrics: Mapping[str, float], epoch: int, model: torch.nn.Module) -> None:
        """Take the validation after ``epoch`` epochs, and the weights with it where they are the best."""
        if not self._config.patience:
            return
        self._scores.append(gather_objects(metrics[self._name])[0])
        self._epochs.append(epoch)
        best = best_of(self._scores, self._config)
        if best == len(self._scores) - 1:
            self._best_metrics = dict(metrics)
            self._best_weights = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
        elif self.stopped and self._rank == 0:
            waited = counted(len(self._scores) - 1 - best, "validation")
            log.info("after epoch %d %s has not improved in %s: the run ends", epoch, self._name, waited)

    def finish(self, model: torch.nn.Module) -> dict[str, float]:
        """Give the model the weights of the best validation; returns its metrics, nothing where there is none."""
        if not self._best_weights:
            return {}
        model.load_state_dict(self._best_weights)
        best = best_of(self._scores, self._config)
        epoch, score = self._epochs[best], self._scores[best]
        if self._rank == 0:
            log.info("the weights kept are those after epoch %d: %s %.4f", epoch, self._name, score)
        return {**self._best_metrics, "stop/best_epoch": float(epoch)}

    def save(self, folder: Path) -> None:
        """Write the files of a checkpoint."""
        self.snapshot(HostCopies())(folder)

    def snapshot(self, copies: HostCopies) -> Callable[[Path], None]:
        """The function that is returned writes what is known now, whatever is added later."""
        # The best weights are a copy in the host's memory, which is replaced and never changed.
        weights = {name: tensor.contiguous() for name, tensor in self._best_weights.items()}
        scores = tuple(score if math.isfinite(score) else None for score in self._scores)
        state = _Saved(epochs=tuple(self._epochs), scores=scores, best_metrics=self._best_metrics)

        def write(folder: Path) -> None:
            if not self._config.patience:
                return
            (folder / _STATE).write_text(json.dumps(dataclasses.asdict(state), sort_keys=True, indent=1))
            if weights:
                safetensors.torch.save_file(weights, folder / _BEST)

        return write

    def restore(self, folder: Path) -> None:
        """Read what ``save`` wrote. Raises UserError where that is missing or damaged."""
        if not self._config.patience:
            return
        try:
            state = read_json(_Saved, (folder / _STATE).read_bytes(), f"{folder}/{_STATE}")
            weights = safetensors.torch.load_file(folder / _BEST) if state.best_metrics else {}
        except (OSError, JsonError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{folder} is not a checkpoint of a run that stops early: {error}; restore it, or train again"
            ) from error
        self._epochs, self._scores = list(state.epochs), [math.nan if s is None else s for s in state.scores]
        self._best_metrics, self._best_weights = state.best_metrics, weights
