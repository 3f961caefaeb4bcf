"""Where TV-L1 of the torch engine runs, and by which arithmetic."""

from __future__ import annotations

import importlib.util
import logging
import os
import re

import torch

from pipeline.config.base import require

log = logging.getLogger(__name__)


def find_device(wanted: str) -> torch.device:
    """The device of that name, a CUDA one with its index; ``auto`` is CUDA where there is one. ConfigError where it
    is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    require(re.fullmatch(r"cpu|cuda(:\d+)?", wanted) is not None, "device", wanted, "use auto, cuda, cuda:N or cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        require(
            torch.cuda.is_available(),
            "device",
            wanted,
            "torch sees no CUDA device: check the driver, or use device auto",
        )
        require(
            (device.index or 0) < torch.cuda.device_count(),
            "device",
            wanted,
            f"there are {torch.cuda.device_count()} CUDA devices",
        )
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def runs_triton(device: torch.device) -> bool:
    """Whether the Triton kernels run on this device; ConfigError where there is a GPU and they cannot."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cuda":
        require(
            importlib.util.find_spec("triton") is not None,
            "flow_engine",
            "torch",
            "Triton is not installed: pip install triton",
        )
        require(
            not interpreted, "TRITON_INTERPRET", "1", "unset it: kernels would be interpreted, and the GPU not used"
        )
        return True
    if interpreted and importlib.util.find_spec("triton") is not None:
        return True
    log.warning("no GPU: TV-L1 runs in plain torch, about as slow as OpenCV; use --flow-engine numba on a CPU")
    return False
