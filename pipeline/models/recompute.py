"""Activation checkpointing that updates batch normalisation's running statistics once, as a plain forward pass does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.batchnorm import batchnorms


@contextlib.contextmanager
def _statistics_unchanged(module: nn.Module) -> Iterator[None]:
    layers = [layer for layer in batchnorms(module) if layer.training]
    kept = [(layer, name, buffer) for layer in layers for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in kept:
        setattr(layer, name, buffer.clone())  # the second forward pass updates the copy
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)


def recomputed(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, storing only its inputs; the backward pass recomputes the activations.

    The recomputation sees the same batch again and would update the running statistics a second time: that update is
    discarded.

    Args:
        module: contains the batch normalisation layers that ``function`` uses.
        function: deterministic (no dropout): the state of the random generator is not replayed.
    """
    if not torch.is_grad_enabled():
        return function(*args)

    if torch.compiler.is_compiling():
        # torch.compile accepts no context functions and needs none: it recomputes arithmetic, never buffer updates.
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_unchanged(module)

    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
