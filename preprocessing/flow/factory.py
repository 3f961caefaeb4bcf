"""Flow engines by name."""

from __future__ import annotations

import importlib.util

from pipeline.config.base import require
from preprocessing.flow.base import FlowEngine
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.params import FlowMode

ENGINES = ("numba", "opencv", "torch")


def flow_engine(name: str, mode: FlowMode = "tvl1") -> FlowEngine:
    """A new engine of that name for the calling thread.

    Args:
        name: ``opencv`` (the reference), ``numba`` (CPU), ``torch`` (GPU).
        mode: ``tvl1``, the exact algorithm; ``tvl1-fast``, with fewer warps where motion is small (only numba and
            torch).

    Raises:
        ConfigError: no such engine, or it is not installed, or it does not have that mode.
    """
    require(name in ENGINES, "flow_engine", name, f"use one of {', '.join(ENGINES)}")
    require(
        mode == "tvl1" or name != "opencv",
        "stored.flow_mode",
        mode,
        "OpenCV has only the exact mode: use --flow-engine numba or torch",
    )
    if name == "opencv":
        return OpenCVTVL1()
    # Imported on demand: a registered model with OpenCV's flow must load where numba is not installed.
    require(
        importlib.util.find_spec(name) is not None,
        "flow_engine",
        name,
        f"{name} is not installed: pip install {name}, or use --flow-engine opencv",
    )
    if name == "numba":
        from preprocessing.flow.numba.engine import NumbaTVL1

        return NumbaTVL1(mode=mode)
    from preprocessing.flow.torch.engine import TorchTVL1

    return TorchTVL1(mode=mode)
