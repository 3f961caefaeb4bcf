"""Points of a training's curves, and the line of the log about one."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pipeline.checkpoints.record import Position
from pipeline.training.step import Stepper

log = logging.getLogger(__name__)


def of_training(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are measured at every point of the curve: a validation's belong to the place where it was made."""
    return {name: value for name, value in metrics.items() if name.startswith("train/")}


def print_curve(metrics: Mapping[str, float], position: Position, steps: int, remark: str) -> None:
    """One line of the log."""
    log.info(
        "epoch %d step %d/%d loss %.4f top1 %.3f %.1f clips/s%s",
        position.epoch,
        position.step,
        steps,
        metrics["train/loss"],
        metrics["train/top1"],
        metrics["train/clips_per_s"],
        remark,
    )


def curve_point(stepper: Stepper, speed: dict[str, float]) -> dict[str, float]:
    """Collective: means since the last point, the learning rate, and the run's speed."""
    means = {f"train/{name}": value for name, value in stepper.sums.means().items()}
    return {**means, "train/lr": stepper.scheduler.get_last_lr()[-1], **speed}
