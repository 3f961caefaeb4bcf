"""Batch normalisation and ReLU, together where a GPU gains by it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FUSED = True
"""Off: torch's kernels, for comparisons."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def norm_relu(norm: nn.Module, x_FCHW: Tensor) -> Tensor:
    """ReLU(norm(x)). On a GPU, a layer that learns takes it in two passes over a channels-last map each way; its
    statistics may then differ from torch's in the last digits. ``x_FCHW`` is not needed any more.
    """
    kernels = _kernels() if FUSED and x_FCHW.is_cuda else None
    if kernels is None or not takes(norm, x_FCHW):
        return F.relu(norm(x_FCHW), inplace=True)
    return fused_norm_relu(kernels, norm, x_FCHW)


def takes(norm: nn.Module, x_FCHW: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the kernels compute this layer of this map."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and x_FCHW.dtype in _DTYPES
        and x_FCHW.ndim == 4
        and x_FCHW.numel() > x_FCHW.shape[1]
        and x_FCHW.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()  # its compiler joins the two by itself
    )


def fused_norm_relu(kernels: Any, norm: nn.BatchNorm2d, x_FCHW: Tensor) -> Tensor:
    """By ``kernels``, the module ``triton_norm``; updates the running statistics as the layer does."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return kernels.NormReLU.apply(
        x_FCHW, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )


@functools.cache
def _kernels() -> Any:
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("pipeline.models.triton_norm")
