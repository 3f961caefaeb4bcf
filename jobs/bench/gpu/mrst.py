"""MRST-Net with T units: the gate's backward pass by itself, and a training step at several batches and in variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import profiled, seconds
from jobs.bench.gpu.training import Variant, step_row
from jobs.recipes.mrst import paper_mrst
from pipeline.config.model import MRSTConfig
from pipeline.config.train import TrainConfig
from pipeline.models import norm_relu
from pipeline.models.mrst import gate

CLASSES = 400
FORMS = ("loop", "batched", "joined")
# Positions of a clip (16 frames) and channels of the first and the last unit at 224 pixels
NORMS = ("torch's", "cuDNN's", "ours")
GATES = ((16 * 28 * 28, 128), (16 * 7 * 7, 512))


def config_for(batch: int, tiny: bool) -> TrainConfig:
    """The paper's training from scratch, on one rank with ``batch`` clips."""
    config = paper_mrst(fine_tuning=False)
    changed = {
        "data": dataclasses.replace(config.data, batch_size=batch),
        "run": dataclasses.replace(config.run, num_workers=1, use_gpu="auto", precision="bf16"),
    }
    if tiny:
        small = MRSTConfig(unit="T", blocks=(1, 1), mid=(8, 8), out=(16, 24), stem=8, lstm=16, num_steps=8)
        changed |= {"model": small, "clip": dataclasses.replace(config.clip, num_frames=8, crop=32, resize=32)}
    return dataclasses.replace(config, **changed)


def measure(settings: Settings) -> Iterator[Row]:
    """The gate in its three forms; the step as it was, as it is, and with what may make it faster."""
    batches = (2,) if settings.tiny else (8, 16, 32)
    graph = Variant(graph=True)
    cases = [
        *((batch, "batched", Variant()) for batch in batches),
        (batches[0], "batched", Variant(plain=True)),
        *((batch, "batched", graph) for batch in batches),
        (batches[-1], "batched", Variant(torch_norm=True)),
    ]
    yield from _steps(settings, cases)
    for positions, channels in ((40, 8),) if settings.tiny else GATES:
        for form in FORMS:
            name = f"gate backward {form}, 8 x {positions} x {channels}"
            yield from guarded(
                settings, name, lambda p=positions, c=channels, f=form: _gate(settings, p, c, f), needs_s=2.0
            )
    for kind in NORMS:
        yield from guarded(settings, f"norm and ReLU, {kind}", lambda kind=kind: _norm(settings, kind))


def _steps(settings: Settings, cases: list[tuple[int, str, Variant]]) -> Iterator[Row]:
    for batch, form, variant in cases:
        yield from guarded(
            settings,
            name_of("MRST-T", batch, variant, form),
            lambda b=batch, f=form, v=variant: _step(settings, b, f, v),
        )


def name_of(network: str, batch: int, variant: Variant, form: str = "") -> str:
    """Names what differs from the trainer's step."""
    words = [field.name for field in dataclasses.fields(variant) if getattr(variant, field.name) != field.default]
    return f"{network} {batch}: {', '.join([*([form] if form else []), *words]) or 'as it is'}"


def _step(settings: Settings, batch: int, form: str, variant: Variant) -> Row:
    gate.BACKWARD = form  # type: ignore[assignment]
    return step_row(config_for(batch, settings.tiny), CLASSES, variant, settings)


def _norm(settings: Settings, kind: str) -> Row:
    """Forward and backward pass of the normalisation and ReLU of maps as large as those of the first units."""
    frames, channels, side = (4, 8, 8) if settings.tiny else (256, 64, 56)
    x = torch.randn(frames, channels, side, side, device=settings.device).to(torch.bfloat16)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    norm, grad = torch.nn.BatchNorm2d(channels, device=settings.device), torch.randn_like(x)
    learnt = (x, norm.weight, norm.bias)

    def passes() -> None:
        norm_relu.FUSED = kind == "ours"
        if kind == "cuDNN's" and settings.cuda:
            statistics = norm.running_mean, norm.running_var, True, 0.1, norm.eps
            y = torch.relu(torch.cudnn_batch_norm(*learnt, *statistics)[0])
        else:
            y = norm_relu.norm_relu(norm, x)
        torch.autograd.grad(y, learnt, grad)

    s = seconds(passes, settings)
    return {"ms": 1000 * s, "passes_of_the_map": s * 4e12 / (2 * x.numel()), **profiled(passes, settings, top=8)}


def _gate(settings: Settings, positions: int, channels: int, form: str) -> Row:
    gate.BACKWARD = form  # type: ignore[assignment]
    generator = torch.Generator(settings.device).manual_seed(0)

    def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, device=settings.device, dtype=dtype, generator=generator)

    a, b, weights = drawn(8, positions, channels), drawn(8, positions, channels), drawn(2, channels, channels)
    mask = drawn(8, positions, channels) > 0
    means = drawn(3, 8, channels, dtype=torch.float32)

    def backward() -> tuple[torch.Tensor, ...]:
        return gate.reinforced_means_backward(a, b, weights[0], weights[1], mask, *means)

    found = [x.double() for x in backward()]
    wide = (x.double() for x in (a, b, *weights))
    if positions * channels > 1 << 18:
        error = None  # float64 of whole maps is not worth its time here; the small case is the same code
    else:
        true = gate.reinforced_means_backward(*wide, mask, *means.double())
        error = max(float((x - y).norm() / y.norm()) for x, y in zip(found, true, strict=True))
    return {"ms": 1000 * seconds(backward, settings), "relative_error": error, **profiled(backward, settings)}
