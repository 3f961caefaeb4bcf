"""Gradients of weights that are used at every step of a recurrence: summed in bf16 through autocast's cached copy, or
in float32, one cast a use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from jobs.bench.gpu.crn import CLASSES, config_for
from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import seconds
from jobs.bench.gpu.training import drawn_batch
from pipeline.models import build_model
from pipeline.training.loss import supervised_loss


def measure(settings: Settings) -> Iterator[Row]:
    """Relative errors against float32 without autocast, by number of steps."""
    for steps in (3,) if settings.tiny else (10, 20):
        yield from guarded(settings, f"CRN gradients, {steps} steps", lambda steps=steps: _gradients(settings, steps))


def _gradients(settings: Settings, steps: int) -> Row:
    config = config_for(2, settings.tiny)
    model_config = dataclasses.replace(config.model, num_steps=steps, dropout=0.0)
    config = dataclasses.replace(config, model=model_config, clip=dataclasses.replace(config.clip, num_frames=steps))
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.device(settings.device):
        model = build_model(model_config, num_classes=CLASSES, crop=config.clip.crop).eval()
    batch = drawn_batch(model, config, settings.device)
    size = torch.tensor(float(len(batch)), device=settings.device)

    def passes(enabled: bool, cached: bool) -> dict[str, torch.Tensor]:
        for parameter in model.parameters():
            parameter.grad = None
        with torch.autocast(settings.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=cached):
            outputs = model(batch.inputs, steps=range(steps))
        supervised_loss(outputs, batch.labels, batch.weights, size).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    true = passes(False, False)
    row: Row = {}
    for name, cached in (("bf16_sums", True), ("float32_sums", False)):
        found = passes(True, cached)
        for part in ("cells", "rib", "rab", "backbone"):
            keys = [key for key in true if part in key]
            apart = sum(float((found[k] - true[k]).double().square().sum()) for k in keys)
            whole = sum(float(true[k].double().square().sum()) for k in keys)
            row[f"{name}_{part}_error"] = (apart / max(whole, 1e-300)) ** 0.5
        row[f"{name}_ms"] = 1000 * seconds(lambda cached=cached: passes(True, cached), settings)
    return row
