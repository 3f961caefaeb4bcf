"""Recipes: functions that return a whole TrainConfig. A variant calls another recipe and changes a few fields.

The first line of a recipe's docstring is what ``python -m jobs.train --list`` prints.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import UserError

RECIPES: dict[str, Callable[[], TrainConfig]] = {}


def recipe(function: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    """Register a recipe under its function's name."""

    def named() -> TrainConfig:
        return dataclasses.replace(function(), recipe=function.__name__)

    named.__doc__, named.__name__ = function.__doc__, function.__name__
    RECIPES[function.__name__] = named
    return named


def find_recipe(name: str) -> TrainConfig:
    """The recipe of that name. Raises UserError, naming the nearest ones."""
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, n=3) or sorted(RECIPES)
    raise UserError(f"unknown recipe {name!r}: did you mean {', '.join(near)}? `python -m jobs.train --list` shows all")


def default_views(config: TrainConfig) -> int:
    """Views of a test video: 4 clips for CRN, 20 for MRST-Net (both papers)."""
    return 4 if config.model.kind == "crn" else 20


@recipe
def crn_demo() -> TrainConfig:
    """CRN, RGB + flow, small, from scratch, for the synthetic set on a CPU."""
    return TrainConfig(
        model=CRNConfig(width=0.25, backbone_stages=3, hidden=64, adapted=64, num_steps=8),
        clip=ClipConfig(num_frames=8, crop=56, resize=64, min_area=0.7, flow_std=2.0),
        data=DataConfig(batch_size=16),
        optim=OptimConfig(name="adam", lr=2e-3, backbone_lr=2e-3, weight_decay=1e-4, epochs=36, warmup_steps=20, schedule="cosine", clip_norm=5.0),
        run=RunConfig(num_workers=2, checkpoint_epochs=12, log_steps=14),
    )


@recipe
def rgb_demo() -> TrainConfig:
    """The RGB stream of crn_demo alone, uncoupled."""
    config = crn_demo()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("rgb",), partner="off"))


@recipe
def flow_demo() -> TrainConfig:
    """The flow stream of crn_demo alone, uncoupled."""
    config = crn_demo()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("flow",), partner="off"))


@recipe
def mrst_demo() -> TrainConfig:
    """MRST-Net with T units, RGB, small, from scratch, for the synthetic set on a CPU."""
    return TrainConfig(
        model=MRSTConfig(unit="T", blocks=(1, 1, 1), mid=(24, 24, 48), out=(48, 64, 96), stem=24, lstm=64, num_steps=12, dropout=0.1),
        clip=ClipConfig(num_frames=12, crop=56, resize=64, min_area=0.7),
        data=DataConfig(batch_size=16),
        optim=OptimConfig(name="adam", lr=3e-3, backbone_lr=3e-3, weight_decay=1e-4, epochs=64, warmup_steps=20, schedule="cosine", clip_norm=5.0),
        run=RunConfig(num_workers=2, checkpoint_epochs=16, log_steps=14),
    )


@recipe
def crn_small() -> TrainConfig:
    """CRN, RGB + flow, small, from scratch, for some hundred real clips of some seconds, stored at 10 fps, on a CPU."""
    return TrainConfig(
        model=CRNConfig(width=0.25, backbone_stages=3, hidden=64, adapted=64, num_steps=10, dropout=0.3),
        clip=ClipConfig(num_frames=10, stride=3, crop=80, resize=88, min_area=0.35, flow_std=3.0),
        data=DataConfig(batch_size=8, val_split=""),
        optim=OptimConfig(name="adam", lr=1e-3, backbone_lr=1e-3, weight_decay=1e-4, epochs=50, warmup_steps=20, schedule="cosine", clip_norm=5.0, label_smoothing=0.1),
        run=RunConfig(num_workers=2, checkpoint_epochs=25, log_steps=11),
    )


@recipe
def crn_bninception() -> TrainConfig:
    """CRN as in the paper: BN-Inception at 224, f = 512, T = 10, RIB, strategy c, RGB + stacks of 5 flows; 8 ranks."""
    # The paper is silent on batch size, epochs, decay, clipping and crops; these are the habits of its time (TSN): batch 32,
    # gradient norm 20, area crops, half a cosine in place of steps.
    return TrainConfig(
        model=CRNConfig(stack=5, dropout=0.5),
        clip=ClipConfig(num_frames=10, stack=5, crop=224, resize=256, norm="caffe"),
        data=DataConfig(batch_size=32),
        optim=OptimConfig(name="sgd", lr=1e-2, backbone_lr=1e-3, weight_decay=5e-4, clip_norm=20, epochs=60, schedule="cosine"),
        run=RunConfig(num_workers=8, cpus_per_worker=8, use_gpu="yes"),
    )


@recipe
def n_crn_bninception() -> TrainConfig:
    """N-CRN, the paper's uncoupled baseline: each branch is fed its own hidden state."""
    config = crn_bninception()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, partner="self", rib="none"))


@recipe
def mrst_net() -> TrainConfig:
    """MRST-Net as Table 1 with T units, 16 x 224 x 224 RGB, Adam from scratch (section 4.1); 8 ranks."""
    # The paper is silent on batch size, epochs and schedule: 64 clips, 100 epochs, half a cosine.
    return TrainConfig(
        model=MRSTConfig(),
        clip=ClipConfig(num_frames=16, crop=224, resize=256),
        data=DataConfig(batch_size=64),
        optim=OptimConfig(name="adam", lr=1e-4, backbone_lr=1e-4, weight_decay=5e-5, epochs=100, schedule="cosine"),
        run=RunConfig(num_workers=8, cpus_per_worker=8, use_gpu="yes"),
    )
