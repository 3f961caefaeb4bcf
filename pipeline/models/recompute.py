"""Activation checkpointing that leaves batch normalisation's running statistics as a plain forward does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    layers = [
        layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
    ]
    kept = [(layer, name, buffer) for layer in layers for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in kept:
        setattr(layer, name, buffer.clone())  # what the second pass moves is thrown away
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)


def recomputed(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, keeping only its inputs; the backward pass computes the rest again.

    The second pass sees the same batch; without care it would move the running statistics twice.

    Args:
        module: holds the batch normalisation layers that ``function`` uses.
        function: deterministic (no dropout): the random state is not replayed.
    """
    if not torch.is_grad_enabled():
        return function(*args)

    if torch.compiler.is_compiling():
        # The compiler takes no contexts, and needs none: it repeats arithmetic alone, never an update of a buffer.
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_kept(module)

    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
