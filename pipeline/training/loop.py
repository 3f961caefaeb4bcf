"""The training loop: epochs of steps, curves, checkpoints, validation. It knows neither Ray nor MLflow."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import ActionModel, freeze_batchnorm
from pipeline.training.ask import Ask, Asker, never
from pipeline.training.checkpoint import (
    RunFacts,
    StepKeys,
    audit_samples,
    load_main,
    read_samples,
    read_state,
    snapshot,
)
from pipeline.training.collective import data_parallel, largest_over_ranks, world_size
from pipeline.training.curves import curve_point, of_training, print_curve
from pipeline.training.ema import JudgedWeights
from pipeline.training.meter import Meter
from pipeline.training.optim import build_optimizer, build_scheduler, lay_out_state
from pipeline.training.passes import EagerPasses
from pipeline.training.recorded import RecordedPasses
from pipeline.training.resume import newest_checkpoint
from pipeline.training.saving import Saver
from pipeline.training.step import Stepper, move_to
from pipeline.training.stopping import EarlyStopping
from pipeline.training.timing import timed

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What the loop asks of a loader."""

    def num_steps(self, epoch: int) -> int: ...
    def iter_epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]: ...
    def metrics(self) -> Mapping[str, float]: ...


class Tracker(Protocol):
    """Receives the curves. Called on rank 0 only."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def flush(self) -> None: ...  # may wait and raise; called in the thread that stores checkpoints


Validate = Callable[[ActionModel, int], dict[str, float]]  # collective; metrics named by protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How ``train`` ended, the same on every rank."""

    metrics: dict[str, float]
    """The last ones: of the last curve and validation; with early stopping those of the best validation."""
    left: bool
    """It was asked to leave before the end: the newest checkpoint has the place."""
    position: Position
    checkpoint: str
    """On rank 0, the name of the checkpoint that holds this position."""


def train(
    facts: RunFacts,
    model: ActionModel,
    loader: Loader,
    checkpoints: CheckpointStore,
    *,
    device: torch.device,
    rank: int = 0,
    tracker: Tracker | None = None,
    validate: Validate | None = None,
    meter: Meter | None = None,
    ask: Asker = never,
    start: Callable[[ActionModel], None] | None = None,
) -> Outcome:
    """Train from the newest sound checkpoint, or from the start, to the last epoch, until ``config.stop`` ends the run,
    or until a rank asks to leave. Collective.

    Args:
        facts: the run's config, and what else its checkpoints must carry.
        model: with its initial weights, equal on all ranks; moved to ``device`` here. At the end it has those that the
            run is judged by.
        loader: this rank's batches; its state is (epoch, step).
        checkpoints: of the run; rank 0 alone reads and writes them.
        validate: called after every checkpointed epoch.
        meter: where this rank's time goes.
        ask: called before every step's update; any rank's answer counts for all at that step.
        start: puts the weights to start from into the model; called only where there is no checkpoint.

    Raises:
        UserError: the checkpoint belongs to another config or data set, or there is no room for temporary files.
        StorageError: a checkpoint could not be stored.
        ReciprocalError: the loss stopped being finite (on a GPU noticed a step later), or too many samples are damaged.
    """
    config = facts.config
    move_to(device, model)
    if config.run.freeze_batchnorm:
        freeze_batchnorm(model)
    judged = JudgedWeights(model, config.optim.ema_decay)
    if config.run.compile:
        model.compile_training()
    epochs, steps = config.optim.epochs, loader.num_steps(0)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, epochs * steps)
    position, metrics, name = Position(), {}, ""
    stopping = EarlyStopping(config, rank)
    flush = tracker.flush if tracker else None
    saver = Saver(checkpoints, rank, minutes=config.run.checkpoint_minutes, ask=ask, flush=flush)
    with newest_checkpoint(checkpoints, rank, device) as found:
        if found is not None:
            name, folder = found
            position = load_main(folder, judged.model, optimizer, scheduler)
            lay_out_state(optimizer)
            judged.restore(folder, position.global_step)
            metrics = read_state(folder)["metrics"]
            stopping.restore(folder)
            if rank == 0 and config.run.log_samples:
                saver.resume_keys(read_samples(folder))
                for problem in audit_samples(folder)[:1]:
                    log.warning("the samples that this run keeps (run.log_samples) are incomplete: %s", problem)
            log.info("resuming at epoch %d, step %d of %d", position.epoch, position.step, steps)
        elif start:
            start(model)
    meter = meter or Meter()
    times = meter.times
    times.begin(position.global_step)
    if config.run.cuda_graph:
        wrapped, passes = model, RecordedPasses(model, config, device)
    else:
        wrapped = data_parallel(model, device, sync_batchnorm=config.run.sync_batchnorm)
        passes = EagerPasses(wrapped, config, device)
    meter.begin(wrapped, loader, device, config.data.batch_size, rank)
    stepper = Stepper(passes, model, optimizer, scheduler, config, device, saver.ask)
    keys, left = [], False

    def save(measured: dict[str, float], *, wait: bool = False) -> None:
        stepper.saving()
        judged.average_buffers()
        main = functools.partial(
            snapshot,
            model=judged.model,
            optimizer=optimizer,
            scheduler=scheduler,
            position=dataclasses.replace(position),
            facts=facts,
            metrics=metrics,
        )
        with times.measure("checkpoint_s"):
            saver.save(position, measured, [main, judged.snapshot, stopping.snapshot], wait=wait)

    try:
        for epoch in range(position.epoch, epochs):
            if stopping.stopped:
                break
            _train_mode(model, config)
            meter.restart()
            asked = Ask.NONE
            for batch in timed(loader.iter_epoch(epoch, position.step), times):
                with times.measure("copy_s"):
                    batch = batch.to(device, non_blocking=True)
                with times.measure("step_s"):
                    complete = stepper(batch, position.global_step)
                if config.run.log_samples:
                    keys += [k for k, w in zip(batch.keys, batch.weights.tolist(), strict=True) if w > 0]
                if not complete:
                    continue
                if config.run.log_samples:
                    saver.add_keys(
                        StepKeys(epoch=epoch, step=batch.step, keys=tuple(keys), rank=rank, ranks=world_size())
                    )
                    keys = []
                judged.update()
                meter.step_ended()
                position.step, position.global_step = position.step + 1, position.global_step + 1
                if position.global_step % config.run.log_steps == 0 or position.step == steps:
                    stepper.settle()
                    metrics = metrics | curve_point(stepper, meter.curve())
                    if tracker:
                        tracker.log_metrics(of_training(metrics), position.global_step)
                    if rank == 0:
                        print_curve(metrics, position, steps, meter.straggler_line(metrics))
                asked = stepper.asked
                if asked is Ask.LEAVE:
                    break
                if position.step < steps and (asked is Ask.SAVE or _is_due(position, config)):
                    save(of_training(metrics))
                    meter.restart()  # the time of a checkpoint counts in no rate
            if asked is Ask.LEAVE:
                # After an epoch's last step its validation is still to come: it follows when the run goes on.
                left = True
                save(of_training(metrics), wait=True)
                break
            position.epoch, position.step = epoch + 1, 0
            if position.epoch % config.run.checkpoint_epochs == 0 or position.epoch == epochs:
                if validate:
                    judged.average_buffers()
                    with times.measure("validate_s"):
                        scores = validate(judged.model, epoch)
                    metrics = metrics | scores
                    if tracker:
                        tracker.log_metrics(scores, position.global_step)
                    stopping.add(metrics, position.epoch, judged.model)
                if stopping.stopped or position.epoch == epochs:
                    metrics = metrics | stopping.finish(judged.model)
                left = position.epoch < epochs and largest_over_ranks(saver.ask(), device) == Ask.LEAVE
                save(metrics, wait=left)
                if left:  # the validation took its time: what was asked for meanwhile is heard before the next step
                    break
            elif asked is Ask.SAVE or _is_due(position, config):
                save(of_training(metrics))
        name = saver.finish() or name
    except BaseException:
        saver.abandon()
        raise
    judged.finish()
    meter.report(tracker, position.global_step)
    return Outcome(metrics=metrics, left=left, position=position, checkpoint=name)


def _is_due(position: Position, config: TrainConfig) -> bool:
    every = config.run.checkpoint_steps
    return bool(every) and position.global_step % every == 0


def _train_mode(model: ActionModel, config: TrainConfig) -> None:
    model.train()
    if config.run.freeze_batchnorm:
        freeze_batchnorm(model)
