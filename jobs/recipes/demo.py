"""Recipes for the demo's synthetic set."""

from __future__ import annotations

import dataclasses

from jobs.recipes.registry import recipe
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


@recipe(data="the synthetic set")
def crn_demo() -> TrainConfig:
    """CRN, RGB + flow, small, from scratch, for the synthetic set on a CPU."""
    return TrainConfig(
        model=CRNConfig(width=0.25, backbone_stages=3, hidden=64, adapted=64, num_steps=8),
        clip=ClipConfig(num_frames=8, crop=56, resize=64, min_area=0.7, flow_std=2.0),
        data=DataConfig(batch_size=16),
        optim=OptimConfig(
            name="adam",
            lr=2e-3,
            backbone_lr=2e-3,
            weight_decay=1e-4,
            epochs=36,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
        ),
        run=RunConfig(num_workers=2, checkpoint_epochs=12, log_steps=14),
    )


@recipe(data="the synthetic set")
def rgb_demo() -> TrainConfig:
    """The RGB stream of crn_demo alone, uncoupled."""
    config = crn_demo()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("rgb",), partner="off"))


@recipe(data="the synthetic set")
def flow_demo() -> TrainConfig:
    """The flow stream of crn_demo alone, uncoupled."""
    config = crn_demo()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("flow",), partner="off"))


@recipe(data="the synthetic set")
def mrst_demo() -> TrainConfig:
    """MRST-Net with T units, RGB, small, from scratch, for the synthetic set on a CPU."""
    return TrainConfig(
        model=MRSTConfig(
            unit="T", blocks=(1, 1, 1), mid=(24, 24, 48), out=(48, 64, 96), stem=24, lstm=64, num_steps=12, dropout=0.1
        ),
        clip=ClipConfig(num_frames=12, crop=56, resize=64, min_area=0.7),
        data=DataConfig(batch_size=16),
        optim=OptimConfig(
            name="adam",
            lr=3e-3,
            backbone_lr=3e-3,
            weight_decay=1e-4,
            epochs=64,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
        ),
        run=RunConfig(num_workers=2, checkpoint_epochs=16, log_steps=14),
    )
