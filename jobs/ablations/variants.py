"""What ``jobs.ablations`` compares: the variants of the papers' ablations as tiny networks, and their order there."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, ModelConfig, MRSTConfig, Unit
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the compared networks."""

    name: str
    title: str
    model: ModelConfig


@dataclasses.dataclass(frozen=True)
class Group:
    """A question, and the paper's answer to it."""

    name: str
    question: str
    variants: tuple[str, ...]
    """From worst to best in the paper."""
    streams: tuple[str, ...]
    """Streams whose top-1 is compared: modalities, or fused."""
    source: str


def _crn(name: str, title: str, **fields: Any) -> Variant:
    tiny: dict[str, Any] = {"width": 0.125, "backbone_stages": 3, "hidden": 32, "adapted": 32, "num_steps": 8}
    return Variant(name, title, CRNConfig(**{**tiny, **fields}))


def _mrst(unit: Unit, title: str) -> Variant:
    model = MRSTConfig(
        unit=unit, blocks=(1, 1, 1), mid=(16, 16, 32), out=(32, 32, 64), stem=16, lstm=32, num_steps=8, dropout=0.1
    )
    return Variant(f"mrst-{unit.lower()}", title, model)


_UNCOUPLED: dict[str, Any] = {"partner": "off", "rib": "none"}
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _crn("crn", "CRN, RIB, strategy c"),
        _crn("plain", "two uncoupled streams", **_UNCOUPLED),
        _crn("ncrn", "N-CRN: own hidden state", partner="self", rib="none"),
        _crn("early", "early fusion", fusion="early", **_UNCOUPLED),
        _crn("late", "late fusion", fusion="late", **_UNCOUPLED),
        _crn("no-rib", "CRN without RIB", rib="none"),
        _crn("srib", "CRN, sRIB", rib="srib"),
        _crn("strategy-a", "CRN, strategy a: last step", strategy="a"),
        _crn("strategy-b", "CRN, strategy b: all steps", strategy="b"),
        _crn("strategy-d", "CRN, strategy d: last and two others", strategy="d"),
        _mrst("STD", "STD"),
        _mrst("STF", "STD with STF"),
        _mrst("P", "MRST-P"),
        _mrst("S", "MRST-S"),
        _mrst("T", "MRST-T"),
    )
}

STREAMS = ("rgb", "flow", "fused")
GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group(
            "coupling",
            "Does the other branch's hidden state help a stream?",
            ("plain", "ncrn", "crn"),
            STREAMS,
            "CRN Table 3 (plain: ours)",
        ),
        Group("fusion", "Does coupling beat fusion?", ("late", "early", "crn"), ("fused",), "CRN Table 4"),
        Group("rib", "Does interpretation help?", ("no-rib", "srib", "crn"), STREAMS, "CRN Table 1"),
        Group(
            "strategy",
            "Which steps should be supervised?",
            ("strategy-b", "strategy-a", "strategy-d", "crn"),
            STREAMS,
            "CRN Table 2",
        ),
        Group(
            "mrst",
            "Does mutual reinforcement help?",
            ("mrst-std", "mrst-stf", "mrst-s", "mrst-p", "mrst-t"),
            ("fused",),
            "MRST Table 2",
        ),
    )
}
"""The order in a group is that of the paper's numbers, on HMDB-51 if they are given for two data sets."""


def tiny_config(variant: Variant, uri: str, seed: int, epochs: int) -> TrainConfig:
    """The same budget for every variant of a paper: clips, batch size, optimiser, schedule and number of epochs.

    Args:
        variant: the network to train.
        uri: of the data set.
        seed: of weights, order, augmentation and drawn steps.
        epochs: of CRN's variants; MRST-Net, which has to learn motion from RGB only, gets 1.5 times as many.
    """
    model = variant.model
    epochs = epochs * 3 // 2 if isinstance(model, MRSTConfig) else epochs
    return TrainConfig(
        recipe=f"ablation_{variant.name.replace('-', '_')}",
        model=model,
        clip=ClipConfig(num_frames=model.num_steps, crop=48, resize=56, min_area=0.7, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=16, val_split="", decode_threads=1, fetch_threads=4),
        optim=OptimConfig(
            name="adam",
            lr=2e-3,
            backbone_lr=2e-3,
            weight_decay=1e-4,
            epochs=epochs,
            warmup_steps=20,
            schedule="cosine",
            clip_norm=5.0,
        ),
        run=RunConfig(seed=seed, checkpoint_epochs=epochs, log_steps=10**6, use_gpu="no"),
    )
