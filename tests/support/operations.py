"""Counts what a step does, on the meta device: operations of torch, FLOP, and bytes that they read and write."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import build_model
from pipeline.training.passes import EagerPasses

_NO_WORK = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "resize_"}


class Operations(TorchDispatchMode):
    """Operations that read or write memory: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if not func.is_view and name not in _NO_WORK:
            self.counts[name] += 1
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def step_of(config: TrainConfig, classes: int) -> tuple[Operations, int]:
    """Forward and backward pass of a training step in float32: operations and FLOP. The meta device has no autocast,
    whose casts come on top, none of the Triton kernels, each of which does the work of several operations, and no
    optimiser of a few kernels, which a GPU has.
    """
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, precision="fp32"))
    meta, size = torch.device("meta"), config.data.batch_size
    with meta:
        model = build_model(config.model, num_classes=classes, crop=config.clip.crop).train()
    passes = EagerPasses(model, config, meta)
    shape = (size, model.num_steps, config.clip.crop, config.clip.crop)
    inputs = {m: torch.empty(*shape, model.channels[m], device=meta).permute(0, 1, 4, 2, 3) for m in model.modalities}
    labels = torch.empty(size, dtype=torch.int64, device=meta)
    batch = Batch(inputs, labels, torch.empty(size, device=meta), tuple(map(str, range(size))), 0, 0)
    drawn = model.draw_steps(torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as flop, Operations() as operations:
        passes(batch, drawn, last=True)
    return operations, flop.get_total_flops()
