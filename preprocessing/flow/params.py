"""The numbers of TV-L1, one set for every engine."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pipeline.config.base import require

FlowMode = Literal["tvl1", "tvl1-fast"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TVL1Params:
    """Parameters of duality-based TV-L1 (Zach, Pock, Bischof 2007), by default those of OpenCV's DualTVL1.

    Brightness is 0..255: ``lambda_`` weighs the data term at that scale.
    """

    tau: float = 0.25
    """Time step of the dual update."""
    lambda_: float = 0.15
    """Weight of the data term."""
    theta: float = 0.3
    """Tightness of the coupling between flow and auxiliary flow."""
    epsilon: float = 0.01
    """Mean squared change per pixel, square root of it, at which a warp ends, in pixels; 0: never."""
    scales: int = 5
    """Largest number of pyramid levels; fewer where a side would fall below 16 pixels."""
    scale_step: float = 0.8
    """Size of a level over the next finer one."""
    warps: int = 5
    """Largest number of linearisations of the data term on a level."""
    settled_px: float = 0.0
    """Root mean square distance by which a warp moves the flow, in pixels of the level, at most which the pair takes no
    further warp on it; 0: every warp is done, as OpenCV does. Where motion is large the linearisation holds on a short
    way only, the flow moves on with each warp, and the pair gets them all.
    """
    outer_iterations: int = 10
    """Largest number of median filterings in a warp."""
    inner_iterations: int = 30
    """Largest number of primal-dual steps between two median filterings."""
    median: bool = True
    """Whether every outer iteration starts with a 5x5 median of the flow."""


_MODES: dict[FlowMode, TVL1Params] = {"tvl1": TVL1Params(), "tvl1-fast": TVL1Params(settled_px=0.06)}


def params_of(mode: FlowMode) -> TVL1Params:
    """What a mode means, in every engine that has it; ConfigError if there is no such mode."""
    require(mode in _MODES, "flow_mode", mode, f"use one of {', '.join(_MODES)}")
    return _MODES[mode]
