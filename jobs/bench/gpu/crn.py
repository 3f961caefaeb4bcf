"""CRN with BN-Inception, RGB and stacks of 5 flows: training steps by batch, plain and out of a CUDA graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jobs.bench.gpu.mrst import name_of
from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.training import Variant, step_row
from jobs.recipes.crn import crn_bninception
from pipeline.config.model import CRNConfig
from pipeline.config.train import TrainConfig

CLASSES = 101


def config_for(batch: int, tiny: bool) -> TrainConfig:
    """The recipe crn_bninception on one rank with ``batch`` clips."""
    config = crn_bninception()
    changed = {
        "data": dataclasses.replace(config.data, batch_size=batch),
        "run": dataclasses.replace(config.run, num_workers=1, use_gpu="auto", precision="bf16"),
    }
    if tiny:
        small = CRNConfig(width=0.1, backbone_stages=3, hidden=8, adapted=8, num_steps=3, stack=2, dropout=0.5)
        changed |= {
            "model": small,
            "clip": dataclasses.replace(config.clip, num_frames=3, stack=2, crop=64, resize=64),
        }
    return dataclasses.replace(config, **changed)


def measure(settings: Settings) -> Iterator[Row]:
    """Steps as they are, with other memory and algorithms, and out of a graph."""
    batches = (2,) if settings.tiny else (4, 16, 32)
    cases = [
        *((batch, Variant()) for batch in batches),
        (batches[0], Variant(plain=True)),
        *((batch, Variant(graph=True)) for batch in batches),
        (batches[0], Variant(fused=True, graph=True)),
    ]
    for batch, variant in dict.fromkeys(cases):
        yield from guarded(
            settings,
            name_of("CRN", batch, variant),
            lambda b=batch, v=variant: step_row(config_for(b, settings.tiny), CLASSES, v, settings),
        )
