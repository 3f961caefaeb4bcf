"""What a training of ``jobs.ablations`` is: a tiny network, and the budget that it shares with its competitors."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, ModelConfig, MRSTConfig, Unit
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the compared networks."""

    name: str
    title: str
    model: ModelConfig
    lr: float = 0.0
    """Learning rate; 0: the budget's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What all variants of a question have in common."""

    crop: int
    """Side of the input in pixels. The CRN variants' maps have a side of crop / 16."""
    epochs: int
    batch_size: int = 16
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 2e-3
    """Learning rate."""
    backbone_share: float = 1.0
    """Learning rate of the backbones over ``lr``: below 1 they keep what the training before taught them."""
    weight_decay: float = 1e-4
    min_area: float = 0.7
    """Of training crops."""


def crn(name: str, title: str, *, lr: float = 0.0, **fields: Any) -> Variant:
    """A CRN of 0.35 to 0.41 M parameters: BN-Inception x 0.125 up to its first stride of 16, f = R = 32."""
    tiny: dict[str, Any] = {"width": 0.125, "backbone_stages": 3, "hidden": 32, "adapted": 32, "num_steps": 4}
    return Variant(name, title, CRNConfig(**{**tiny, **fields}), lr)


def mrst(unit: Unit, title: str) -> Variant:
    """An MRST-Net of three units and 0.06 M parameters. Without the LSTM: with one of 32 units, T units were at 23 %
    after eight epochs on single moving objects (chance 11 %), without it at 59 %, at a higher rate too.
    """
    model = MRSTConfig(
        unit=unit, blocks=(1, 1, 1), mid=(16, 16, 32), out=(32, 32, 64), stem=16, lstm=0, num_steps=8, dropout=0.1
    )
    return Variant(f"mrst-{unit.lower()}", title, model)


@dataclasses.dataclass(frozen=True)
class Fold:
    """What a training leaves out and is tested on."""

    name: str
    sources: tuple[str, ...]
    """``data.val_sources``."""


def tiny_config(
    variant: Variant,
    budget: Budget,
    uri: str,
    seed: int,
    *,
    epochs: int = 0,
    fold: Fold | None = None,
    pattern: str = "",
) -> TrainConfig:
    """The configuration of one training.

    Args:
        variant: the network to train.
        budget: shared by all variants of a question.
        uri: of the data set.
        seed: of weights, order, augmentation and drawn steps.
        epochs: 0: the budget's.
        fold: what is left out; None: nothing.
        pattern: ``data.val_group`` of the fold's sources.
    """
    model, lr, epochs = variant.model, variant.lr or budget.lr, epochs or budget.epochs
    held_out = {} if fold is None else {"val_sources": fold.sources, "val_group": pattern}
    return TrainConfig(
        recipe=f"ablation_{variant.name.replace('-', '_')}",
        model=model,
        clip=ClipConfig(num_frames=model.num_steps, crop=budget.crop, min_area=budget.min_area, flow_std=2.0),
        data=DataConfig(
            uri=uri, batch_size=budget.batch_size, val_split="", decode_threads=1, fetch_threads=4, **held_out
        ),
        optim=OptimConfig(
            name=budget.optimizer,
            lr=lr,
            backbone_lr=budget.backbone_share * lr,
            weight_decay=budget.weight_decay,
            epochs=epochs,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
        ),
        run=RunConfig(seed=seed, checkpoint_epochs=epochs, log_steps=10**6, use_gpu="no"),
    )
