"""Recipes for a few hundred real clips, from random weights; docs/train.md says what to expect of them."""

from __future__ import annotations

from jobs.recipes.registry import recipe
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.stop import StopConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


@recipe(data="a few hundred real clips")
def crn_small() -> TrainConfig:
    """CRN, RGB + flow, small, from scratch, for a few hundred real clips of some seconds at 10 fps, on a CPU."""
    return TrainConfig(
        model=CRNConfig(width=0.25, backbone_stages=3, hidden=64, adapted=64, num_steps=10, dropout=0.3),
        clip=ClipConfig(num_frames=10, stride=3, crop=80, resize=88, min_area=0.35, flow_std=3.0),
        data=DataConfig(batch_size=8, val_split=""),
        optim=OptimConfig(
            name="adam",
            lr=1e-3,
            backbone_lr=1e-3,
            weight_decay=1e-4,
            epochs=50,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
            label_smoothing=0.1,
        ),
        run=RunConfig(num_workers=2, checkpoint_epochs=25, log_steps=11),
    )


@recipe(data="a few hundred real clips")
def mrst_small() -> TrainConfig:
    """MRST-Net with T units, flow, small, from scratch, for a few hundred real clips of some seconds at 10 fps."""
    return TrainConfig(
        model=MRSTConfig(
            modalities=("flow",),
            unit="T",
            blocks=(1, 1, 1),
            mid=(24, 24, 48),
            out=(48, 64, 96),
            stem=24,
            lstm=64,
            num_steps=14,
            dropout=0.3,
        ),
        clip=ClipConfig(num_frames=14, stride=2, crop=64, resize=72, min_area=0.35, flow_std=1.5),
        data=DataConfig(batch_size=8, val_split="", val_share=0.2),
        optim=OptimConfig(
            name="adam",
            lr=1.5e-3,
            backbone_lr=1.5e-3,
            weight_decay=1e-3,
            epochs=60,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
            label_smoothing=0.1,
        ),
        stop=StopConfig(patience=6),
        run=RunConfig(num_workers=2, checkpoint_epochs=5, log_steps=9),
    )
