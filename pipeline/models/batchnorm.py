"""Batch normalisation: which layers learn, and how they are frozen or joined over ranks."""

from __future__ import annotations

from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batchnorms(module: nn.Module) -> list[BatchNorm]:
    """All layers, in order of definition."""
    return [layer for layer in module.modules() if isinstance(layer, BatchNorm)]


def freeze_batchnorm(module: nn.Module, *, keep: int = 0) -> int:
    """Freeze the statistics and affine weights of batch normalisation; return the number of layers frozen.

    ``module.train()`` puts the layers back into training mode, so call this after every ``train()``; and call it once
    before the model is wrapped for data-parallel training, because the wrapper reads ``requires_grad`` at that moment.

    Args:
        module: the model or a part of it.
        keep: number of layers, from the first in order of definition, that stay trainable (TSN's "partial BN" keeps
            the first one of each backbone: call this per backbone with ``keep=1``).
    """
    layers = batchnorms(module)
    for layer in layers[keep:]:
        layer.eval()
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return len(layers[keep:])


def synchronise_batchnorm(module: nn.Module) -> None:
    """Let layers that learn take their statistics over all ranks of the default process group, each step one exchange
    a layer. Parameters, running statistics and their names stay. Call it before the model is wrapped for data-parallel
    training. Such layers run on GPUs only while they learn; with one rank they compute what they did before.
    """
    nn.SyncBatchNorm.convert_sync_batchnorm(module)
