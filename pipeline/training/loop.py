"""The training loop: epochs of steps, curves, checkpoints, validation. It knows neither Ray nor MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel, freeze_batchnorm
from pipeline.training.checkpoint import (
    Position,
    RunFacts,
    audit_samples,
    load_main,
    read_samples,
    read_state,
    save_main,
    save_samples,
)
from pipeline.training.collective import average_buffers, world_size
from pipeline.training.meter import Meter
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.step import Stepper
from pipeline.training.stopping import EarlyStopping
from pipeline.training.timing import timed

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What the loop asks of a loader."""

    def num_steps(self, epoch: int) -> int: ...
    def iter_epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]: ...
    def metrics(self) -> Mapping[str, float]: ...


class Reporter(Protocol):
    """Where checkpoints go. ``save`` is collective: every rank calls it at the same step."""

    def latest(self) -> contextlib.AbstractContextManager[Path | None]: ...
    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None: ...


class Tracker(Protocol):
    """Receives the curves. Called on rank 0 only."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...


Validate = Callable[[ActionModel, int], dict[str, float]]  # collective; metrics named by protocol


def train(
    facts: RunFacts,
    model: ActionModel,
    loader: Loader,
    reporter: Reporter,
    *,
    device: torch.device,
    rank: int = 0,
    tracker: Tracker | None = None,
    validate: Validate | None = None,
    meter: Meter | None = None,
) -> dict[str, float]:
    """Train from the newest checkpoint, or from the start, to the last epoch or until ``config.stop`` ends the run.

    Args:
        facts: the run's config, and what else its checkpoints must carry.
        model: with its initial weights, equal on all ranks; moved to ``device`` here.
        loader: this rank's batches; its state is (epoch, step).
        reporter: keeps and finds checkpoints.
        validate: called after every checkpointed epoch.
        meter: where this rank's time goes.

    Returns:
        The last metrics (of the last epoch's curve and validation; with early stopping those of the best validation).

    Raises:
        UserError: the checkpoint belongs to another config or data set.
        ReciprocalError: the loss stopped being finite, or too many samples are damaged.
    """
    config = facts.config
    model.to(device)
    if config.run.freeze_batchnorm:
        freeze_batchnorm(model)
    if config.run.compile:
        model.compile_training()
    epochs, steps = config.optim.epochs, loader.num_steps(0)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, epochs * steps)
    position, metrics, seen = Position(), {}, []
    stopping = EarlyStopping(config, rank)
    with reporter.latest() as folder:
        if folder is not None:
            position = load_main(folder, model, optimizer, scheduler)
            metrics = read_state(folder)["metrics"]
            stopping.restore(folder)
            if rank == 0 and config.run.log_samples:
                seen = read_samples(folder)
                for problem in audit_samples(folder)[:1]:
                    log.warning("the samples that this run keeps (run.log_samples) are incomplete: %s", problem)
            log.info("resuming at epoch %d, step %d of %d", position.epoch, position.step, steps)
    meter = meter or Meter()
    times = meter.times
    times.begin(position.global_step)
    wrapped = _distribute(model, device)
    meter.begin(wrapped, loader, device, config.data.batch_size, rank)
    stepper = Stepper(wrapped, model, optimizer, scheduler, config, device)

    def save() -> None:
        average_buffers(model)

        def write(folder: Path) -> None:
            if rank == 0:
                save_main(folder, model, optimizer, scheduler, position, facts, metrics)
                stopping.save(folder)
            if config.run.log_samples:
                save_samples(folder, rank, seen)

        with times.measure("checkpoint_s"):
            reporter.save(metrics, write)

    keys = []
    for epoch in range(position.epoch, epochs):
        if stopping.stopped:
            break
        _train_mode(model, config)
        meter.restart()
        for batch in timed(loader.iter_epoch(epoch, position.step), times):
            with times.measure("copy_s"):
                batch = batch.to(device, non_blocking=True)
            with times.measure("step_s"):
                complete = stepper(batch, position.global_step)
            keys += (
                [k for k, w in zip(batch.keys, batch.weights.tolist(), strict=True) if w > 0]
                if config.run.log_samples
                else []
            )
            if not complete:
                continue
            if config.run.log_samples:
                line = {"epoch": epoch, "step": batch.step, "rank": rank, "ranks": world_size(), "keys": keys}
                seen.append(json.dumps(line))
                keys = []
            meter.step_ended()
            position.step, position.global_step = position.step + 1, position.global_step + 1
            if position.global_step % config.run.log_steps == 0 or position.step == steps:
                metrics = metrics | _curve(stepper, meter.curve())
                if tracker:
                    tracker.log_metrics(metrics, position.global_step)
                if rank == 0:
                    log.info(
                        "epoch %d step %d/%d loss %.4f top1 %.3f %.1f clips/s%s",
                        epoch,
                        position.step,
                        steps,
                        metrics["train/loss"],
                        metrics["train/top1"],
                        metrics["train/clips_per_s"],
                        meter.straggler_line(metrics),
                    )
            if (
                config.run.checkpoint_steps
                and position.global_step % config.run.checkpoint_steps == 0
                and position.step < steps
            ):
                save()
                meter.restart()  # the time of a checkpoint counts in no rate
        position.epoch, position.step = epoch + 1, 0
        if position.epoch % config.run.checkpoint_epochs == 0 or position.epoch == epochs:
            if validate:
                average_buffers(model)
                with times.measure("validate_s"):
                    metrics = metrics | validate(model, epoch)
                if tracker:
                    tracker.log_metrics(metrics, position.global_step)
                stopping.add(metrics, position.epoch, model)
            if stopping.stopped or position.epoch == epochs:
                metrics = metrics | stopping.finish(model)
            save()
    meter.report(tracker, position.global_step)
    return metrics


def _distribute(model: ActionModel, device: torch.device) -> torch.nn.Module:
    if world_size() == 1:
        return model
    ids = [device.index or 0] if device.type == "cuda" else None
    # Training does not read running statistics: they are averaged before a checkpoint or a validation
    # (average_buffers), not at every step.
    return torch.nn.parallel.DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, forward_sync_buffers=False
    )


def _train_mode(model: ActionModel, config: TrainConfig) -> None:
    model.train()
    if config.run.freeze_batchnorm:
        freeze_batchnorm(model)


def _curve(stepper: Stepper, speed: dict[str, float]) -> dict[str, float]:
    means = {f"train/{name}": value for name, value in stepper.sums.means().items()}
    return {**means, "train/lr": stepper.scheduler.get_last_lr()[-1], **speed}
