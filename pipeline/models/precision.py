"""Automatic mixed precision: when it is on, and the parts of a model that leave it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context with autocast switched off on the device of ``like``; does nothing if the device has none (meta)."""
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context with bf16 autocast on, or one that does nothing.

    Args:
        precision: "bf16", "fp32", or "auto": bf16 on a GPU, fp32 on the CPU.
        device: where the model runs.
    """
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
