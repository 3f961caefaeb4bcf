"""The bare loop: forward, loss, backward, clip, update on batches that lie in memory. No Ray, no process group, no
loader, no tracker, no meter; a process of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.models import ActionModel, branch_probabilities, build_model, freeze_batchnorm, fuse
from pipeline.models.dropout import place_clips
from pipeline.models.precision import autocast
from pipeline.storage import open_storage
from pipeline.training.loss import supervised_loss
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.step import derived_seed

_NICENESS = 15  # of Ray's workers: other programs on the machine must slow both down alike


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """sha256 of all weights and buffers."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def serve(config: TrainConfig, steps: int, driver: Connection) -> None:
    """Answer an epoch's number with the seconds that its steps took, and None with the digest of the weights; ends
    after that.

    Args:
        config: of the run, complete.
        steps: of an epoch.
    """
    os.environ["OMP_NUM_THREADS"] = str(int(config.run.cpus_per_worker))  # as Ray gives a rank its threads
    torch.set_num_threads(int(config.run.cpus_per_worker))
    os.nice(max(0, _NICENESS - os.nice(0)))
    bare = BareLoop(config, steps)
    while (epoch := driver.recv()) is not None:
        driver.send(bare.run_epoch(epoch))
    driver.send(weights_digest(bare.model.state_dict()))


class BareLoop:
    """The same model, batches and updates as a run of one rank."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        self._storage = open_storage(config.data.uri)
        self._manifest = read_manifest(self._storage)
        torch.manual_seed(config.run.seed)
        self.model: ActionModel = build_model(
            config.model, num_classes=len(self._manifest.classes), crop=config.clip.crop
        ).train()
        if config.run.freeze_batchnorm:
            freeze_batchnorm(self.model)
        self._optimizer = build_optimizer(self.model, config)
        self._scheduler = build_scheduler(self._optimizer, config, config.optim.epochs * steps)
        self._correct = torch.zeros(())

    def run_epoch(self, epoch: int) -> float:
        """Seconds of an epoch's steps; its batches are decoded before."""
        batches = list(self._batches(epoch))
        start_s = time.perf_counter()
        for step, batch in enumerate(batches):
            self._step(batch, epoch * self._steps + step)
        return time.perf_counter() - start_s

    def _batches(self, epoch: int) -> Iterator[Batch]:
        with make_loader(
            self._storage,
            self._manifest,
            self._config.data.train_split,
            data=self._config.data,
            clip=self._config.clip,
            modalities=self._config.model.modalities,
            train=True,
            seed=self._config.run.seed,
            rank=0,
            world_size=1,
            channels_last=True,
        ) as loader:
            yield from itertools.islice(loader.iter_epoch(epoch), self._steps)

    def _step(self, batch: Batch, number: int) -> None:
        config, seed, size = self._config, self._config.run.seed, self._config.data.batch_size
        torch.manual_seed(derived_seed("step", seed, number))
        place_clips(self.model, 0, len(batch.labels), size, torch.device("cpu"))
        drawn = self.model.draw_steps(torch.Generator().manual_seed(derived_seed("supervision", seed, number)))
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(config.run.precision, torch.device("cpu")):
            outputs = self.model(batch.inputs, steps=drawn)
        whole = torch.tensor(float(size))
        supervised_loss(outputs, batch.labels, batch.weights, whole, config.optim.label_smoothing).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm or float("inf"))
        self._optimizer.step()
        self._scheduler.step()
        with torch.no_grad():  # whoever trains wants to see the accuracy
            self._correct += (fuse(branch_probabilities(outputs)).argmax(1) == batch.labels).sum()
