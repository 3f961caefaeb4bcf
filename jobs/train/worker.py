"""What every rank runs under Ray Train: build, resume, train."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import ray.train
import torch

from jobs.train.control import Listener
from jobs.train.observe import Observer
from pipeline.common.printable import PrintableFormatter
from pipeline.config.data import DataConfig
from pipeline.config.train import TrainConfig
from pipeline.data.index import load_run_index
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ManifestError
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.evaluation.metrics import log_loss
from pipeline.models import ActionModel
from pipeline.runs.folder import checkpoint_store
from pipeline.runs.start_weights import StartWeights, first_model
from pipeline.storage import Storage, join, open_storage
from pipeline.tracking.journal import RunJournal
from pipeline.training.ask import Asker
from pipeline.training.checkpoint import RunFacts
from pipeline.training.collective import gather_objects
from pipeline.training.loop import Outcome, train
from pipeline.training.stopping import metric_name
from pipeline.training.timing import StepTimes

log = logging.getLogger("jobs.train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver hands to the ranks, pickled."""

    facts: RunFacts
    gpu: bool
    start: StartWeights | None = None
    """None: random weights."""
    started: tuple[float, float] | None = None
    """When the command began and when its ranks were asked for, in seconds since 1970."""
    attempt: int = 1
    data: DataConfig
    """As it is for this attempt's number of ranks."""
    control: Any
    """The driver's actor (``jobs.train.control``)."""


def train_worker(task: WorkerTask, make_batches: Callable[..., Any] = make_loader) -> Outcome:
    """One rank.

    Args:
        make_batches: makes the loader of the training split.
    """
    _set_up_logging()
    observer = Observer(task.facts.config, task.started)
    with Listener(task.control, task.attempt, lambda: observer.times.steps) as listener:
        return observer.watch(lambda: _train_rank(task, listener, observer, make_batches))


def _train_rank(task: WorkerTask, ask: Asker, observer: Observer, make_batches: Callable[..., Any]) -> Outcome:
    # Weights in channels-last order make gradients of 1x1 convolutions whose strides differ in name only
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    facts, config = task.facts, task.facts.config
    context = ray.train.get_context()
    rank, world_size, local_rank = context.get_world_rank(), context.get_world_size(), context.get_local_rank()
    device = torch.device("cuda", torch.cuda.current_device()) if task.gpu else torch.device("cpu")
    storage = open_storage(config.data.uri)
    manifest = read_manifest(storage)
    if manifest.digest != facts.manifest_digest:
        raise ManifestError(
            f"{config.data.uri} changed while the run was waiting: manifest {manifest.digest[:12]} instead of"
            f" {facts.manifest_digest[:12]}"
        )
    model = _first_model(config, len(manifest.classes), None)
    # One a node: the node's figures go there too.
    journal = RunJournal(open_storage(join(config.run.output, config.run.run_id))) if local_rank == 0 else None
    tracker = journal if rank == 0 else None
    meter = observer.join(rank, device, len(manifest.classes))
    observer.startup.mark("model")
    log.info(
        "rank %d of %d (local %d) on %s, node %s",
        rank,
        world_size,
        local_rank,
        device,
        ray.get_runtime_context().get_node_id()[:8],
    )
    common = {
        "data": task.data,
        "clip": config.clip,
        "modalities": config.model.modalities,
        "seed": config.run.seed,
        "rank": rank,
        "world_size": world_size,
        "device": "gpu" if task.gpu and config.data.device != "cpu" else "cpu",
        "device_id": device.index or 0,
        "target": device,
        "channels_last": True,  # as the models' convolutions want it
    }
    with (
        contextlib.closing(journal) if journal else contextlib.nullcontext(),
        make_batches(storage, manifest, config.data.train_split, train=True, **common) as loader,
        observer.node_metrics(journal),
    ):
        observer.follow(loader)
        validate = _validation(config, storage, manifest, device, common, observer.times)
        outcome = train(
            facts,
            model,
            loader,
            checkpoint_store(config),
            device=device,
            rank=rank,
            tracker=tracker,
            validate=validate,
            meter=meter,
            ask=ask,
            start=functools.partial(_load_start, config, len(manifest.classes), task.start) if task.start else None,
        )
        if tracker:
            tracker.log_metrics(
                {f"train_loader/{name}": float(value) for name, value in loader.metrics().items()},
                outcome.position.global_step,
            )
    return outcome


def _first_model(config: TrainConfig, num_classes: int, start: StartWeights | None) -> ActionModel:
    torch.manual_seed(config.run.seed)  # equal initial weights on all ranks
    return first_model(config, num_classes, start)


def _load_start(config: TrainConfig, num_classes: int, start: StartWeights, model: ActionModel) -> None:
    model.load_state_dict(_first_model(config, num_classes, start).state_dict())


def _set_up_logging() -> None:
    # Our lines go to the driver; Ray Train's, every report of every rank in full, would bury them.
    for name in [
        "ray.train",
        *(n for n in logging.root.manager.loggerDict if "/ray/train/" in n),
    ]:  # one is named by its file
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("jobs", "pipeline"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(PrintableFormatter("%(message)s"))
            logger.addHandler(handler)
            logger.propagate = False
    logging.getLogger("pipeline.models").setLevel(logging.WARNING)  # the driver has logged what was loaded


def _validation(
    config: TrainConfig,
    storage: Storage,
    manifest: Manifest,
    device: torch.device,
    common: dict[str, Any],
    times: StepTimes,
) -> Callable[[ActionModel, int], dict[str, float]] | None:
    split = config.data.validation
    if not split:
        return None
    index = load_run_index(storage, manifest, split, config.model.modalities, config.data)

    def validate(model: ActionModel, epoch: int) -> dict[str, float]:
        # One view a video: a curve to watch, named by its protocol so that it is not mistaken for the test result.
        with make_loader(storage, manifest, split, train=False, num_views=1, index=index, **common) as loader:
            batches = times.progress.follow(loader.iter_epoch(0))
            part = predict_part(model, batches, device=device, precision=config.run.precision)
            predictions = join_parts(
                gather_objects(part),
                {loader.index.key(i): int(loader.index.labels[i]) for i in range(len(loader.index))},
            )
        scores = predictions.scores()
        scores["fused"]["loss"] = log_loss(predictions.streams["fused"], predictions.labels)
        return {
            metric_name(split, name) if stream == "fused" else metric_name(f"{split}/{stream}", name): value
            for stream, values in scores.items()
            for name, value in values.items()
        }

    return validate
