"""Where models step out of automatic mixed precision."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which autocast is off for the device of ``like``; nothing happens on devices without autocast
    (meta).
    """
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast, or nothing.

    Args:
        precision: "bf16", "fp32", or "auto": bf16 on a GPU, fp32 on the CPU.
        device: where the model runs.
    """
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
