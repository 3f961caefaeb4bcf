"""How many pairs a second the torch engine solves on a GPU, and what share of the roofline that is."""

from __future__ import annotations

from typing import Any

import torch

from preprocessing.flow.base import FlowEngine
from preprocessing.flow.pairs import Pairs

_BYTES_PER_PX_ITERATION = 64


def speed_on_gpu(engine: FlowEngine, pairs: Pairs, iterations: float | None, repeat: int = 5) -> dict[str, Any]:
    """Pairs per second of a batch that is on the device: real pairs, repeated to fill it; the best of ``repeat``."""
    from preprocessing.flow.torch.engine import TorchTVL1

    assert isinstance(engine, TorchTVL1)
    _, _, height, width = pairs.gray_N2HW.shape
    batch = max(len(pairs.gray_N2HW), 2 * engine.group_pairs(height, width))
    frames = (
        torch.from_numpy(pairs.gray_N2HW).to(engine.device).repeat(-(-batch // len(pairs.gray_N2HW)), 1, 1, 1)[:batch]
    )
    first, second = frames[:, 0].contiguous(), frames[:, 1].contiguous()
    source = torch.empty(1 << 28, dtype=torch.uint8, device=engine.device)
    seconds = _least_seconds(lambda: engine.flow_pairs(first, second), repeat)
    copy_bytes_per_s = 2 * source.numel() / _least_seconds(source.clone)
    entry: dict[str, Any] = {"pairs_per_s": batch / seconds, "batch_pairs": batch, "copy_bytes_per_s": copy_bytes_per_s}
    if iterations:
        roof = copy_bytes_per_s / (_BYTES_PER_PX_ITERATION * iterations * height * width)
        entry |= {"roofline_pairs_per_s": roof, "share_of_roofline": entry["pairs_per_s"] / roof}
    return entry


def _least_seconds(work: Any, repeat: int = 5) -> float:
    best = float("inf")
    for _ in range(repeat + 1):  # the first run warms up; it cannot be the least
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        stop.synchronize()
        best = min(best, start.elapsed_time(stop) / 1000)
    return best
