"""What ``tests.support.nth_request`` disturbs: a training of 12 steps with 3 checkpoints, and the preprocessing of one
shard, both in one process, without Ray and MLflow, on an S3 server in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections import Counter
from pathlib import Path

import safetensors.torch
import torch

from jobs.preprocess import command as preprocess_command
from jobs.preprocess import target
from jobs.preprocess.command import preprocess
from pipeline.checkpoints.listing import State
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.preprocess import StoredConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.dataset.manifest import read_manifest
from pipeline.runs.folder import RESULT, RunRecord, checkpoint_store, start_or_resume
from pipeline.storage import lease, open_storage
from pipeline.storage.s3_retry import deadline_s
from pipeline.tracking.journal import RunJournal, read_unsent
from pipeline.training.checkpoint import read_samples
from preprocessing.shard.provenance import builder_version
from preprocessing.synthetic.generate import SyntheticConfig, generate
from tests.support.memory_s3 import MemoryS3
from tests.support.preprocess_here import build_here, config
from tests.support.synthetic_set import store_synthetic
from tests.support.training_runs import train_here

_BUCKET, _RUN = "s3://bucket", "r"
_EPOCHS, _STEPS = 3, 4
_QUICK = lease.Timing(beat_s=60.0, look_s=0.02, gone_s=0.1)  # no heartbeats: the same requests each time


class TrainingCase:
    """``command`` is one; ``faults`` compares what it left with what the undisturbed one left."""

    name = "training"

    def __init__(self, server: MemoryS3, folder: Path) -> None:
        """Store the data set, 4 classes of 2 clips, in the bucket."""
        size = {"train": 2, "val": 0, "test": 0, "appearances": 2, "motions": 2, "min_frames": 6, "max_frames": 8}
        store_synthetic(folder, "tiny", StoredConfig(short_side=32, modalities=("rgb",)), 8, **size)
        for path in (folder / "set").rglob("*"):
            if path.is_file():
                server.objects[f"set/{path.relative_to(folder / 'set')}"] = path.read_bytes()
        self._weights: dict[str, torch.Tensor] = {}
        self.more = ()

    @staticmethod
    def command(output: str) -> None:
        """As jobs.train does it, without its ranks' processes: the lease, the run's record, the journal, the training,
        its result.
        """
        _give_up_as_early()
        run_config = config_of(output)
        run = open_storage(f"{output}/{_RUN}")
        run.probe(write=True)
        manifest = read_manifest(open_storage(run_config.data.uri))
        record = RunRecord(
            config=as_dict(run_config),
            identity=run_config.identity(),
            manifest_digest=manifest.digest,
            code_version="test",
        )
        if run.exists(RESULT):
            lease.remove_gone(run)
            return
        with lease.hold(run, plan=secrets.token_hex(8), about={}, refuse=_refuse, timing=_QUICK) as held:
            start_or_resume(run, record)
            with contextlib.closing(RunJournal(run, every_s=60.0)) as journal:
                outcome = train_here(run_config, checkpoint_store(run_config), tracker=journal)
            held.check(look=True)
            result = {
                "checkpoint": outcome.checkpoint,
                "metrics": outcome.metrics,
                "seconds": 0.0,
                "tracking_run_id": "",
            }
            run.write(RESULT, json.dumps(result).encode())

    def faults(self, output: str) -> list[str]:
        """What is not as it should be; the first call keeps the undisturbed run's weights."""
        run = open_storage(f"{output}/{_RUN}")
        store, found = CheckpointStore(run), []
        with store.fetch(json.loads(run.read(RESULT))["checkpoint"]) as files:
            weights = safetensors.torch.load_file(files / "model.safetensors")
            lines = [json.loads(line) for line in read_samples(files)]
        self._weights = self._weights or weights
        if not all(torch.equal(weights[name], tensor) for name, tensor in self._weights.items()):
            found.append("other weights")
        for epoch in range(_EPOCHS):
            used = Counter(key for line in lines if line["epoch"] == epoch for key in line["keys"])
            if len(used) != 8 or set(used.values()) != {1}:
                found.append(f"epoch {epoch} used {used}")
        steps = {entry.step for _, _, entry in read_unsent(run, {}) if "train/loss" in entry.curve}
        if steps != set(range(1, _EPOCHS * _STEPS + 1)):
            found.append(f"its curve has steps {sorted(steps)}")
        states = Counter(entry.state for entry in store.entries())
        if not 1 <= states[State.WHOLE] <= 2 or states[State.DAMAGED] or states[State.SET_ASIDE]:
            found.append(f"checkpoints are {states}")
        if leases := list(run.list(lease.PREFIX)):
            found.append(f"left: {leases}")
        return found


def config_of(output: str) -> TrainConfig:
    """8 clips, batches of 2, 3 epochs, a checkpoint after each."""
    return TrainConfig(
        model=CRNConfig(
            width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=2, modalities=("rgb",), partner="self"
        ),
        clip=ClipConfig(num_frames=2, crop=16, resize=16),
        data=DataConfig(uri=f"{_BUCKET}/set", batch_size=2, val_split="", decoder="reference", fetch_deadline_s=2),
        optim=OptimConfig(name="adam", lr=1e-2, backbone_lr=1e-2, epochs=_EPOCHS),
        run=RunConfig(output=output, run_id=_RUN, log_samples=True, log_steps=1, checkpoint_epochs=1),
    )


class ShardCase:
    """``command`` preprocesses 4 videos of the bucket into one shard and its manifest."""

    name = "preprocessing"

    def __init__(self, server: MemoryS3, folder: Path) -> None:
        """Store the videos in the bucket."""
        made = SyntheticConfig(out=folder, train=2, val=0, test=0, appearances=2, motions=1, min_frames=6, max_frames=8)
        generate(made)
        for path in (folder / "videos").rglob("*.mp4"):
            server.objects[f"videos/{path.relative_to(folder / 'videos')}"] = path.read_bytes()
        self._server, self._objects = server, dict[str, bytes]()
        self.more = (folder, builder_version())

    @staticmethod
    def command(out: str, lists: Path, version: str) -> None:
        """As jobs.preprocess does it, with the shard built in this process, and its code hashed before."""
        _give_up_as_early()
        lease.TIMING = _QUICK
        preprocess_command.build_all = build_here
        preprocess_command.builder_version = target.builder_version = lambda: version
        changes = {"source": f"{_BUCKET}/videos", "out": out, "name": "toy", "samples_per_shard": 8}
        preprocess(dataclasses.replace(config(lists, lists), **changes))

    def faults(self, out: str) -> list[str]:
        """What is not as it should be; the first call keeps the undisturbed run's objects."""
        root = out.removeprefix(f"{_BUCKET}/") + "/"
        found = {path.removeprefix(root): data for path, data in self._server.objects.items() if path.startswith(root)}
        if not self._objects:
            assert not any(path.startswith(lease.PREFIX) for path in found)
            self._objects = found
        names = sorted(found.keys() | self._objects.keys())
        return [f"{path} differs" for path in names if found.get(path) != self._objects.get(path)]


def _give_up_as_early() -> None:
    """A lease's requests have a deadline of their own, which only makes a test longer where the server fails."""
    lease._REQUEST_S = min(lease._REQUEST_S, deadline_s())


def _refuse(holder: object) -> Exception:
    return AssertionError(f"{holder} is alive")
