"""TV-L1 on the GPU: agreement with stored flows of OpenCV, pairs a second by chunk, size and mode, and a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.timing import profiled
from preprocessing.flow.torch import level
from preprocessing.flow.torch.engine import TorchTVL1

MODES = ("tvl1", "tvl1-fast")
TILES = ((16, 64, 8), (16, 64, 16), (16, 64, 32), (16, 32, 16), (8, 64, 16), (8, 32, 8), (4, 64, 8), (4, 64, 4))
"""Rows and columns of a tile, and warps that work on it."""


def measure(settings: Settings) -> Iterator[Row]:
    """Agreement first, then speed on the stored pairs (drawn ones where there is no file), then the profile."""
    stored = dict(np.load(settings.flows)) if settings.flows else {}
    gray_N2HW = stored["gray"] if stored else _drawn(6, 256, 340)
    if settings.tiny:
        gray_N2HW = np.ascontiguousarray(gray_N2HW[:2, :, :16, :20])
    if stored and not settings.tiny:
        for mode in MODES:
            yield from guarded(settings, f"{mode} against OpenCV", lambda mode=mode: _agreement(settings, mode, stored))
    iterations = {mode: float(stored[f"iterations_{mode}"]) if stored else None for mode in MODES}
    cases = [("tvl1", chunk) for chunk in ((2,) if settings.tiny else (None, 32))]
    yield from _speeds(settings, gray_N2HW, cases, iterations)
    yield from guarded(settings, "profile, chunk 32", lambda: _profile(settings, gray_N2HW))
    for tile in TILES[-1:] if settings.tiny else TILES:
        name = f"tvl1 {_size(gray_N2HW)}, tile {tile[0]}x{tile[1]}, {tile[2]} warps"
        yield from guarded(settings, name, lambda tile=tile: _tiled(settings, gray_N2HW, stored, iterations, tile))
    yield from _speeds(settings, gray_N2HW, [] if settings.tiny else [("tvl1-fast", None)], iterations)
    yield from guarded(settings, "tvl1 clip from and to the host", lambda: _clip(settings, gray_N2HW))
    large = _larger(gray_N2HW)
    for chunk in () if settings.tiny else (None, 32):
        yield from guarded(
            settings,
            f"tvl1 {_size(large)} chunk {chunk or 'auto'}",
            lambda chunk=chunk: _speed(settings, "tvl1", large, chunk, None),
        )


def _speeds(
    settings: Settings, gray_N2HW: np.ndarray, cases: list[tuple[str, int | None]], iterations: dict[str, float | None]
) -> Iterator[Row]:
    for mode, chunk in cases:
        yield from guarded(
            settings,
            f"{mode} {_size(gray_N2HW)} chunk {chunk or 'auto'}",
            lambda mode=mode, chunk=chunk: _speed(settings, mode, gray_N2HW, chunk, iterations[mode]),
        )


def _engine(settings: Settings, mode: str, chunk: int | None) -> TorchTVL1:
    params: Any = None
    if settings.tiny:
        from preprocessing.flow.params import TVL1Params

        params = TVL1Params(scales=1, warps=1, outer_iterations=1, inner_iterations=2)
    return TorchTVL1(params, mode=mode, device=settings.device.type, chunk_pairs=chunk)  # type: ignore[arg-type]


def _agreement(settings: Settings, mode: str, stored: dict[str, np.ndarray]) -> Row:
    from preprocessing.flow.compare import Agreement

    engine = _engine(settings, mode, None)
    ours = np.concatenate([engine.flow(pair) for pair in stored["gray"]])
    found = Agreement.of(ours, stored["flow"].astype(np.float32))
    return dataclasses.asdict(found) | {"holds": found.meets(fast=mode == "tvl1-fast")}


def _speed(settings: Settings, mode: str, gray_N2HW: np.ndarray, chunk: int | None, iterations: float | None) -> Row:
    engine = _engine(settings, mode, chunk)
    pairs = int(engine.chunk_pairs(*gray_N2HW.shape[2:]))
    if settings.cuda:
        from jobs.bench.tvl1_gpu import speed_on_gpu
        from preprocessing.flow.pairs import Pairs

        found = speed_on_gpu(engine, Pairs(gray_N2HW, ()), iterations, repeat=2 if pairs >= 64 else 3)
        return found | {"chunk_pairs": pairs}
    first, second = (torch.from_numpy(gray_N2HW[:, i].copy()) for i in (0, 1))
    engine.flow_pairs(first, second)
    return {"chunk_pairs": pairs}


def _tiled(
    settings: Settings,
    gray_N2HW: np.ndarray,
    stored: dict[str, np.ndarray],
    iterations: dict[str, float | None],
    tile: tuple[int, int, int],
) -> Row:
    """Speed and agreement with another tile of the kernels."""
    before = level.TILE_H, level.TILE_W, level.WARPS
    try:
        _set_tile(*tile)
        row = _speed(settings, "tvl1", gray_N2HW, 2 if settings.tiny else 64, iterations["tvl1"])
        if stored and not settings.tiny:
            row["mean_epe"] = _agreement(settings, "tvl1", stored)["mean_epe"]
        return row
    finally:
        _set_tile(*before)


def _set_tile(rows: int, columns: int, warps: int) -> None:
    level.TILE_H, level.TILE_W, level.WARPS = rows, columns, warps
    level.TILE = {"TILE_H": rows, "TILE_W": columns}


def _profile(settings: Settings, gray_N2HW: np.ndarray) -> Row:
    chunk = 2 if settings.tiny else 32
    engine = _engine(settings, "tvl1", chunk)
    frames = torch.from_numpy(gray_N2HW[np.arange(chunk) % len(gray_N2HW)]).to(settings.device)
    first, second = frames[:, 0].contiguous(), frames[:, 1].contiguous()
    engine.flow_pairs(first, second)
    return {"pairs": chunk, **profiled(lambda: engine.flow_pairs(first, second), settings, top=10)}


def _clip(settings: Settings, gray_N2HW: np.ndarray) -> Row:
    """A clip as preprocessing gives it: frames from the host, flows to the host."""
    from jobs.bench.gpu.timing import seconds

    frames = 3 if settings.tiny else 129
    # One scene, moved: frames of different scenes would never settle
    clip = np.stack([np.roll(gray_N2HW[0, 0], i % 7, axis=1) for i in range(frames)])
    engine = _engine(settings, "tvl1", 2 if settings.tiny else 32)
    s = seconds(lambda: engine.flow(clip), settings, warm=1)
    return {"ms": 1000 * s, "pairs_per_s": (frames - 1) / s, **profiled(lambda: engine.flow(clip), settings)}


def _drawn(count: int, height: int, width: int) -> np.ndarray:
    """Waves that move by a pixel or less."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    pairs = []
    for n in range(count):
        rng = np.random.default_rng(n)
        waves = rng.uniform((-0.4, -0.4, 0), (0.4, 0.4, 6.3), (24, 3))
        move = rng.uniform(-1, 1, 2)
        pairs.append(
            [sum(np.sin(a * (x - t * move[0]) + b * (y - t * move[1]) + c) for a, b, c in waves) for t in (0.0, 1.0)]
        )
    return np.clip(128 + 18 * np.array(pairs), 0, 255).round().astype(np.uint8)


def _larger(gray_N2HW: np.ndarray) -> np.ndarray:
    import cv2

    height, width = gray_N2HW.shape[2:]
    flat = gray_N2HW.reshape(-1, height, width)
    scaled = np.stack([cv2.resize(g, (2 * width, 2 * height)) for g in flat])
    return scaled.reshape(-1, 2, 2 * height, 2 * width)


def _size(gray_N2HW: np.ndarray) -> str:
    return f"{gray_N2HW.shape[3]}x{gray_N2HW.shape[2]}"
