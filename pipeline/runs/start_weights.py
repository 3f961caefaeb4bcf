"""The weights that a training starts from: random ones, a public file (``model.pretrained``) or a finished run
(``start_from``). A run of MRST-Net's 2D twin is inflated (``pipeline.models.mrst.inflate``).

The driver finds the file, reads it, takes its sha256 and tries it on the model before any worker starts. Workers read
it again and check the sha256, so that all of them start from the file that the driver saw. A run that resumes from a
checkpoint reads nothing here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.listing import PREFIX
from pipeline.config.base import as_dict, require
from pipeline.config.model import MRSTConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, NotFoundError, StorageSetupError, UserError
from pipeline.models import ActionModel, build_model
from pipeline.models.backbones.public_weights import FIELD as PRETRAINED
from pipeline.models.backbones.public_weights import parse_weights
from pipeline.models.mrst.inflate import load_2d_weights
from pipeline.models.mrst.model import MRSTNet
from pipeline.models.transfer import FIELD as START_FROM
from pipeline.models.transfer import classifier_names, load_run_weights
from pipeline.runs.folder import fetched_checkpoint, open_run, read_result, read_run
from pipeline.storage import open_storage
from pipeline.training.checkpoint import WEIGHTS, read_state

# Fields of models that change no tensor's name or shape, and leave the meaning of the tensors as it is.
_FREE = (
    *("pretrained", "start", "num_steps", "strategy", "dropout", "recompute", "exact_literal", "pooled_gates"),
    "backbone_norm",
)
# Fields in which MRST-Net and its 2D twin always differ, or may.
_FREE_OF_TWIN = (*_FREE, "unit", "lstm", "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartWeights:
    """A file of weights as the driver found it, in plain fields that can be sent to workers."""

    field: str
    """Config field that named it: model.pretrained or start_from."""
    source: str
    """URI of the file, or of the run."""
    folder: str
    name: str
    """URI of the folder that contains the file, and the file's path in it."""
    digest: str
    """sha256 of the file."""
    fresh: tuple[str, ...] = ()
    """With start_from: names of the classifier's tensors if the classifier is not loaded."""
    fix: str = ""
    """With start_from: what to do if a tensor does not fit."""
    twin: bool = False
    """With start_from: the run is of MRST-Net's 2D twin, and this one is of MRST-Net."""
    unlike: tuple[str, ...] = ()
    """With start_from: fields of the two models that differ although every tensor fits."""

    @property
    def warning(self) -> str:
        """What works but is hardly meant; empty: nothing. Tensors fit by name and shape, whatever is done with them."""
        if not self.unlike:
            return ""
        return f"the weights of {self.source} fit, but were trained otherwise: {', '.join(self.unlike)}"

    def __str__(self) -> str:
        what = ""
        if self.twin:
            what = ", a 2D twin: temporal convolutions, gates, LSTM and classifier initialised"
        elif self.field == START_FROM:
            what = (
                ", classifier initialised: that run has other classes"
                if self.fresh
                else ", including the classifier: the classes are the same"
            )
        return f"weights of {self.folder}/{self.name} (sha256 {self.digest[:12]}){what}"

    def read(self) -> dict[str, Tensor]:
        """The file's tensors.

        Raises:
            ConfigError: it cannot be read on this node, or is not the file that the driver read.
        """
        where = f"node {socket.gethostname()} cannot read it; put it where every node can, such as s3://BUCKET/KEY"
        data = _read(self.field, self.source, self.folder, self.name, where)
        digest = hashlib.sha256(data).hexdigest()
        require(
            digest == self.digest,
            self.field,
            self.source,
            f"the file had sha256 {self.digest[:12]} when the run started and has {digest[:12]} now: restore it, or"
            " start another run",
        )
        return parse_weights(data, self.source, self.field)


def find_start(config: TrainConfig, classes: Sequence[str]) -> tuple[TrainConfig, StartWeights | None]:
    """Find and read the weights that a config names, and check that they fit. Needs no worker and no GPU.

    Args:
        config: of the run; classes: of its data set, in order.

    Returns:
        The config with the URI and the sha256 of the file, and what workers need to load it; None for random weights.

    Raises:
        UserError: the file or run does not exist, is not finished or not readable, does not match ``start_digest``, or
            does not fit the model.
    """
    if config.start_from:
        start, data = _of_run(config, classes)
        found = dataclasses.replace(config, start_from=start.source, start_digest=start.digest)
    elif config.model.pretrained:
        start, data = _of_file(config.model.pretrained)
        found = dataclasses.replace(
            config, model=dataclasses.replace(config.model, pretrained=start.source), start_digest=start.digest
        )
    else:
        return config, None
    require(
        config.start_digest in ("", start.digest),
        "start_digest",
        config.start_digest,
        f"the file of {start.field} = {start.source!r} has {start.digest}: give that digest, or the intended file",
    )
    with torch.device("meta"):
        _build(found, len(classes), start, parse_weights(data, start.source, start.field))
    return found, start


def first_model(config: TrainConfig, num_classes: int, start: StartWeights | None) -> ActionModel:
    """The model before the first step: random weights from torch's generator, overwritten by those of ``start``."""
    return _build(config, num_classes, start, start.read() if start else None)


def _build(
    config: TrainConfig, num_classes: int, start: StartWeights | None, state: Mapping[str, Tensor] | None
) -> ActionModel:
    options: dict[str, Any] = {"num_classes": num_classes, "crop": config.clip.crop}
    if start is None or state is None:
        return build_model(config.model, **options)
    if start.field == PRETRAINED:
        frozen = config.run.freeze_batchnorm or getattr(config.model, "backbone_norm", "train") == "frozen"
        return build_model(
            config.model, **options, weights=state, frozen_flow_std=config.clip.flow_std if frozen else 0.0
        )
    model = build_model(config.model, **options)
    if start.twin:
        assert isinstance(model, MRSTNet)
        how = model.config.start
        load_2d_weights(model, state, start=how, source=start.source, field=START_FROM, fix=start.fix)
        return model
    load_run_weights(model, state, fresh=start.fresh, source=start.source, fix=start.fix)
    return model


def _of_file(value: str) -> tuple[StartWeights, bytes]:
    scheme, mark, rest = value.partition("://")
    fix = "give the path of a .safetensors or torch.save file, file:///PATH or s3://BUCKET/KEY"
    require(not mark or scheme in ("file", "s3"), PRETRAINED, value, f"{fix}; download files from elsewhere first")
    # Workers have another working directory, so the path must be absolute.
    uri = value if scheme == "s3" else "file://" + os.path.abspath(os.path.expanduser(rest if mark else value))
    folder, _, name = uri.rpartition("/")
    require(bool(name) and folder != "s3:/", PRETRAINED, value, fix)
    folder = "file:///" if folder == "file://" else folder
    if scheme == "s3":
        _probe(PRETRAINED, value, folder)
    data = _read(PRETRAINED, value, folder, name, fix)
    return (
        StartWeights(field=PRETRAINED, source=uri, folder=folder, name=name, digest=hashlib.sha256(data).hexdigest()),
        data,
    )


def _of_run(config: TrainConfig, classes: Sequence[str]) -> tuple[StartWeights, bytes]:
    value = config.start_from
    folder, _, last = value.rpartition("/")
    named = last if last.startswith(PREFIX) and "://" in folder else ""
    try:
        run = open_run(folder if named else value)
        record, checkpoint = read_run(run), named or read_result(run)["checkpoint"]
        theirs = record.train_config()
        with fetched_checkpoint(run, checkpoint) as folder:
            known = tuple(read_state(folder)["classes"])
            data = (folder / WEIGHTS).read_bytes()
    except UserError as error:
        raise ConfigError(START_FROM, value, str(error)) from error
    except NotFoundError as error:
        raise ConfigError(START_FROM, value, f"the run's folder is incomplete: {error}") from error
    _check_pixels(config, theirs, value)
    same = known == tuple(classes)
    name = f"{checkpoint}/{WEIGHTS}"
    fresh = () if same else classifier_names(config.model, crop=config.clip.crop)
    twin = _unit(theirs) == "2D" != _unit(config) and as_dict(config.model).get("layout") == "resnet"
    start = StartWeights(
        field=START_FROM,
        source=f"{run.uri}/{named}" if named else run.uri,
        folder=run.uri,
        name=name,
        digest=hashlib.sha256(data).hexdigest(),
        fresh=fresh,
        fix=_fix(config, theirs, twin),
        twin=twin,
        unlike=tuple(line for line in _unlike(config, theirs, twin) if not line.startswith("clip.")),
    )
    return start, data


def _check_pixels(config: TrainConfig, theirs: TrainConfig, value: str) -> None:
    both = set(config.model.modalities) & set(theirs.model.modalities)
    for modality, field in (("rgb", "norm"), ("flow", "flow_std")):
        ours, learned = getattr(config.clip, field), getattr(theirs.clip, field)
        require(
            modality not in both or ours == learned,
            f"clip.{field}",
            ours,
            f"{START_FROM} = {value!r} was trained on {modality} with clip.{field} {learned}: use that",
        )


def _unit(config: TrainConfig) -> str:
    return config.model.unit if isinstance(config.model, MRSTConfig) else ""


def _fix(config: TrainConfig, theirs: TrainConfig, twin: bool) -> str:
    """What to change if a tensor does not fit."""
    here, there = config.model.kind, theirs.model.kind
    if here != there:
        return f"give a run of a {here} model; that one is of a {there} model"
    same = "give a run of the same model's 2D twin" if twin else "give a run of the same model"
    unlike = _unlike(config, theirs, twin)
    return f"{same}, or change this one: {', '.join(unlike)}" if unlike else same


def _unlike(config: TrainConfig, theirs: TrainConfig, twin: bool) -> list[str]:
    here, there = (as_dict(c.model) | {"crop": c.clip.crop} for c in (config, theirs))
    return [
        f"{'clip' if name == 'crop' else 'model'}.{name} {value} here and {there.get(name)} there"
        for name, value in here.items()
        if name not in (_FREE_OF_TWIN if twin else _FREE) and value != there.get(name)
    ]


def _probe(field: str, value: str, folder: str) -> None:
    try:
        open_storage(folder).probe(write=False)
    except StorageSetupError as error:
        raise ConfigError(field, value, str(error)) from error


def _read(field: str, value: str, folder: str, name: str, fix: str) -> bytes:
    try:
        return open_storage(folder).read(name)
    # Any other StorageError means that the server failed, not that the value is wrong.
    except (NotFoundError, StorageSetupError, OSError) as error:
        raise ConfigError(field, value, f"{fix} ({error})") from error
