"""What ``jobs.ablations`` compares: the papers' ablations in tiny networks, and the order the papers found."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, ModelConfig, MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Variant:
    """One network of a comparison."""

    name: str
    title: str
    model: ModelConfig


@dataclasses.dataclass(frozen=True)
class Group:
    """A question, and the paper's answer."""

    name: str
    question: str
    variants: tuple[str, ...]
    """From worst to best, as the paper found."""
    streams: tuple[str, ...]
    """Whose top-1 is compared: a modality, or fused."""
    source: str


def _crn(name: str, title: str, **fields: Any) -> Variant:
    tiny: dict[str, Any] = {"width": 0.125, "backbone_stages": 3, "hidden": 32, "adapted": 32, "num_steps": 8}
    return Variant(name, title, CRNConfig(**{**tiny, **fields}))


def _mrst(unit: str, title: str) -> Variant:
    model = MRSTConfig(
        unit=unit, blocks=(1, 1, 1), mid=(16, 16, 32), out=(32, 32, 64), stem=16, lstm=32, num_steps=8, dropout=0.1
    )  # type: ignore[arg-type]
    return Variant(f"mrst-{unit.lower()}", title, model)


_UNCOUPLED: dict[str, Any] = {"partner": "off", "rib": "none"}
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _crn("crn", "CRN, RIB, strategy c"),
        _crn("plain", "two uncoupled streams", **_UNCOUPLED),
        _crn("ncrn", "N-CRN: each hears itself", partner="self", rib="none"),
        _crn("early", "early fusion", fusion="early", **_UNCOUPLED),
        _crn("late", "late fusion", fusion="late", **_UNCOUPLED),
        _crn("no-rib", "CRN without RIB", rib="none"),
        _crn("srib", "CRN, sRIB", rib="srib"),
        _crn("strategy-a", "CRN, strategy a: the last step", strategy="a"),
        _crn("strategy-b", "CRN, strategy b: every step", strategy="b"),
        _crn("strategy-d", "CRN, strategy d: the last and two", strategy="d"),
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
            "Does hearing the other branch help a stream?",
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
"""The order within a group is that of the paper's numbers: HMDB-51 where they are given for two sets."""


def tiny_config(variant: Variant, uri: str, seed: int, epochs: int) -> TrainConfig:
    """The one budget: same clips, batch, optimiser, schedule and number of epochs for every variant of a family.

    Args:
        variant: whose network is trained.
        uri: of the data set.
        seed: of weights, order, augmentation and drawn steps.
        epochs: of CRN's variants; MRST-Net, which has motion to learn from RGB alone, gets half as many again.
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
