"""A whole training run as one value. Recipes (``jobs.recipes``) are functions that return it."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.base import as_dict, from_dict, require
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.optim import OptimConfig
from pipeline.config.renamed import with_new_names, with_old_names
from pipeline.config.run import RunConfig
from pipeline.config.stop import StopConfig

# May change when a run resumes: they decide where and how fast, not what is computed.
_FREE_ON_RESUME = {
    "run": (
        "num_workers",
        "min_workers",
        "wait_minutes",
        "leave_s",
        "cpus_per_worker",
        "use_gpu",
        "spread",
        "max_failures",
        "step_timeout_s",
        "checkpoint_minutes",
        "keep_checkpoints",
        "keep_best",
        "log_steps",
        "compile",
        "cuda_graph",
        "run_id",
        "output",
        "experiment",
    ),
    "data": (
        "micro_batch",
        "fetch_threads",
        "fetch_buffer_mb",
        "fetch_deadline_s",
        "cache_dir",
        "cache_gb",
        "decode_threads",
        "prefetch",
        "damaged_budget",
        "manifest_digest",
        "device",
    ),
}

# Fields that older code did not have, and the values that stand for what it did: a run has the identity, and the run
# id, that it had before there were such fields.
_ADDED_LATER: dict[str, dict[str, Any]] = {
    "clip": {"short_videos": "repeat"},
    "data": {"val_share": 0.0, "val_sources": [], "val_group": ""},
    "model": {
        "stem_downsample": "stride",
        "gate_bn": False,
        "gate_bias": False,
        "st_relu": True,
        "first_partner": "zero",
    },
    "optim": {
        "reference_batch": 0,
        "classifier_multiplier": 1.0,
        "first_conv_multiplier": 1.0,
        "weight_decay_on": "all",
        "warmup_epochs": 0.0,
        "decay_epochs": [],
        "decay_factor": 0.1,
        "ema_decay": 0.0,
    },
    "run": {"sync_batchnorm": False},
    "stop": {"patience": 0, "metric": "loss", "min_delta": 0.0},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. ``model`` and ``clip`` must agree on frames and stack."""

    recipe: str = ""
    model: CRNConfig | MRSTConfig = dataclasses.field(default_factory=CRNConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    stop: StopConfig = dataclasses.field(default_factory=StopConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    start_from: str = ""
    """A finished run (its run id, or the URI of its folder) whose weights this run starts from, or the URI of one
    checkpoint of any run. The classifier comes along where both have the same list of classes, else it is fresh;
    optimiser and schedule always are. From a run of its 2D twin MRST-Net takes the spatial part (model.start).
    """
    start_digest: str = ""
    """sha256 of the file of weights that the run starts from (model.pretrained's, or start_from's); filled in by the
    driver. If given, the file must have it.
    """

    def __post_init__(self) -> None:
        steps = self.model.num_steps
        require(
            self.clip.num_frames == steps,
            "clip.num_frames",
            self.clip.num_frames,
            f"must equal model.num_steps = {steps}",
        )
        stack = getattr(self.model, "stack", 1)
        require(self.clip.stack == stack, "clip.stack", self.clip.stack, f"must equal model.stack = {stack}")
        if isinstance(self.model, CRNConfig) and self.model.pretrained:
            norm = {"bninception": "caffe", "inceptionv3": "inception"}[self.model.backbone]
            require(
                self.clip.norm == norm,
                "clip.norm",
                self.clip.norm,
                f"model.pretrained of {self.model.backbone} was trained on pixels as {norm} gives them: use {norm}",
            )
        require(
            not self.stop.patience or bool(self.data.validation),
            "stop.patience",
            self.stop.patience,
            "early stopping needs a validation: name data.val_split, or give data.val_share or data.val_sources, or use"
            " 0",
        )
        split, kept = self.data.validation, self.run.keep_best
        branches = ["", *(f"{modality}/" for modality in self.model.modalities)]
        names = [f"{split}/{branch}{name}_1x1" for branch in branches for name in ("top1", "top5")]
        fix = f"use one of {split}/loss_1x1, {', '.join(names)}" if split else "there is no validation: leave this out"
        require(not kept or (bool(split) and kept in (*names, f"{split}/loss_1x1")), "run.keep_best", kept, fix)
        both = self.start_from and self.model.pretrained
        require(
            not both,
            "start_from",
            self.start_from,
            f"a run starts from one file of weights: leave this out, or model.pretrained = {self.model.pretrained!r}",
        )
        alone = self.start_digest and not (self.start_from or self.model.pretrained)
        require(
            not alone,
            "start_digest",
            self.start_digest,
            "name the weights that it is the sha256 of: start_from or model.pretrained",
        )
        batch, workers = self.data.batch_size, self.run.num_workers
        near = sorted({max(workers, batch // workers * workers), (batch // workers + 1) * workers})
        larger = f" with optim.reference_batch {batch}, so that the learning rates follow, or at most {batch} ranks"
        larger = larger if near[0] > batch and not self.optim.reference_batch else ""
        require(
            batch % workers == 0,
            "data.batch_size",
            batch,
            f"{workers} ranks (run.num_workers) cannot divide it; use {' or '.join(map(str, near))}{larger}",
        )
        learns = getattr(self.model, "gate_bn", False) and not self.run.freeze_batchnorm
        clips = (self.data.micro_batch or batch // workers) * (workers if self.run.sync_batchnorm else 1)
        require(
            not learns or clips > 1,
            "model.gate_bn",
            True,
            "normalised over a single clip, gates do not depend on it: raise data.micro_batch or data.batch_size, or"
            " use run.sync_batchnorm with several ranks",
        )

    def identity(self) -> dict[str, Any]:
        """The part of the config that a resumed run may not change.

        Weights are identified by their content, not by their path: ``sha256:...`` stands for the path, once the driver
        has filled in ``start_digest``. A run from random weights has the identity it had before there were such fields.
        """
        fields = with_old_names(as_dict(self))
        digest = fields.pop("start_digest")
        if digest and self.start_from:
            fields["start_from"] = f"sha256:{digest}"
        elif digest:
            fields["model"]["pretrained"] = f"sha256:{digest}"
        if not self.start_from:
            del fields["start_from"]
        for section, names in _FREE_ON_RESUME.items():
            for name in names:
                fields[section].pop(name, None)
        for section, names in _ADDED_LATER.items():
            for name, default in names.items():
                if fields[section].get(name, default) == default:  # a kind of model lacks the other kind's
                    fields[section].pop(name, None)
            if not fields[section]:
                del fields[section]
        return fields


def config_from_dict(fields: dict[str, Any]) -> TrainConfig:
    """Inverse of ``as_dict``, for configs read back from a run, a checkpoint or a registered model.

    Raises:
        ConfigError: a value breaks its rule, or this code does not know a field.
    """
    return from_dict(TrainConfig, with_new_names(fields) if isinstance(fields, dict) else fields)


def added_default(field: str) -> Any:
    """What the absence of a dotted field from a run's identity stands for; None for a field that is never absent."""
    section, _, name = field.partition(".")
    return _ADDED_LATER.get(section, {}).get(name)
