"""TV-L1 in plain torch against OpenCV, the engine around it, and the Triton kernels as far as a machine without a
GPU can tell.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ReciprocalError
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.params import TVL1Params
from preprocessing.flow.torch import engine as torch_engine
from preprocessing.flow.torch import solver as torch_solver
from preprocessing.flow.torch.engine import TorchTVL1
from preprocessing.flow.torch.geometry import level_sizes
from tests.support.paths import ROOT

# Every moving pair below stops at an iteration of its own.
FEW = TVL1Params(scales=2, warps=2, outer_iterations=2, inner_iterations=6, epsilon=0.08)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture
def engine(monkeypatch) -> TorchTVL1:
    """In plain torch, on the CPU."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return TorchTVL1(FEW, device="cpu", chunk_pairs=2)


def texture(height: int, width: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """A sum of waves, sampled at (x - dx, y - dy): moved without any interpolation."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    value = np.zeros((height, width))
    for _ in range(24):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(7, 30), rng.uniform(0, 2 * np.pi)
        value += np.sin(2 * np.pi * (np.cos(angle) * (x - dx) + np.sin(angle) * (y - dy)) / period + phase)
    return np.clip(128 + 18 * value, 0, 255).round().astype(np.uint8)


def difference(params: TVL1Params, height: int, width: int, dx: float, dy: float) -> np.ndarray:
    """(H, W) distance in pixels between our flow and OpenCV's."""
    clip = np.stack([texture(height, width), texture(height, width, dx, dy)])
    ours = TorchTVL1(params, device="cpu").flow(clip)[0]
    assert np.abs(ours).max() > 0.01
    return np.hypot(*(ours - OpenCVTVL1(params).flow(clip)[0]))


def test_one_warp_is_opencv_s_to_the_last_digits():
    assert (
        difference(
            TVL1Params(epsilon=0, scales=1, warps=1, outer_iterations=1, inner_iterations=10), 64, 81, 1.3, -0.6
        ).max()
        <= 1e-5
    )


def test_the_pyramid_is_opencv_s():
    assert (
        difference(TVL1Params(epsilon=0, warps=1, outer_iterations=1, inner_iterations=10), 83, 97, 1.3, -0.6).mean()
        <= 1e-4
    )


@pytest.mark.parametrize(("dx", "dy"), [(0.4, -0.3), (2.3, 1.1)])
def test_default_parameters_stay_with_opencv(dx, dy):
    assert difference(TVL1Params(), 64, 80, dx, dy).mean() <= 0.05


def test_levels_shrink_by_the_factor_and_end_before_16_pixels():
    assert level_sizes(256, 340, 5, 0.8) == [(256, 340), (205, 272), (164, 218), (131, 174), (105, 139)]
    assert level_sizes(24, 100, 5, 0.8) == [(24, 100), (19, 80)]
    assert level_sizes(8, 8, 5, 0.8) == [(8, 8)]


def test_building_blocks_are_opencv_s():
    rng = np.random.default_rng(0)
    picture, flow = rng.integers(0, 256, (61, 83)).astype(np.float32), rng.normal(0, 6, (2, 61, 83)).astype(np.float32)
    x, y = np.meshgrid(np.arange(83, dtype=np.float32), np.arange(61, dtype=np.float32))
    warped = torch_solver.warp(torch.from_numpy(picture)[None, None], torch.from_numpy(flow)[None])[0, 0]
    np.testing.assert_allclose(warped, cv2.remap(picture, x + flow[0], y + flow[1], cv2.INTER_CUBIC), atol=2e-3)
    assert np.array_equal(torch_solver.median_5x5(torch.from_numpy(flow)[None])[0, 1], cv2.medianBlur(flow[1], 5))


@pytest.mark.parametrize("settled_px", [0.0, 0.15])
def test_a_pair_has_the_same_bits_in_every_batch(settled_px):
    params = dataclasses.replace(FEW, settled_px=settled_px)
    engine = TorchTVL1(params, device="cpu", chunk_pairs=2)
    moved = [
        texture(40, 33),
        texture(40, 33),
        texture(40, 33, 0.2),
        texture(40, 33, 1.4, -0.7),
        texture(40, 33, 1.4, 1.0),
    ]
    clip = np.stack(moved)
    flow = engine.flow(clip)
    assert flow.shape == (4, 2, 40, 33)
    assert not flow[0].any(), "a static pair next to moving ones must not move"
    assert np.abs(flow[2]).mean() > 0.2
    for count, start in ((1, 0), (3, 0), (4, 0), (1, 2), (2, 1)):
        other = TorchTVL1(params, device="cpu", chunk_pairs=count).flow(clip[start:])
        assert np.array_equal(other, flow[start:]), f"chunks of {count}, from pair {start}"
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert np.array_equal(engine.flow(clip), flow), "another number of threads"
    finally:
        torch.set_num_threads(threads)


def test_pairs_are_of_neighbouring_frames(engine):
    clip = np.stack([texture(30, 34, 0.5 * i) for i in range(6)])
    together = engine.flow_pairs(torch.from_numpy(clip[:-1]), torch.from_numpy(clip[1:]))
    assert np.array_equal(together.numpy(), engine.flow(clip))
    backwards = engine.flow_pairs(torch.from_numpy(clip[1:]), torch.from_numpy(clip[:-1]))
    assert together[:, 0].mean() > 0.2 > -0.2 > backwards[:, 0].mean()


def test_memory_that_runs_out_halves_the_batch(engine, monkeypatch, caplog):
    clip = np.stack([texture(20, 24, 0.3 * i) for i in range(8)])
    expected = engine.flow(clip)
    seen: list[int] = []

    def solve(first, second, params, *, most=3):
        seen.append(len(first))
        if len(first) > most:
            raise torch.OutOfMemoryError("tried to allocate")
        return torch_solver.solve_pairs(first, second, params)

    monkeypatch.setattr(torch_engine, "solve_pairs", solve)
    tight = TorchTVL1(FEW, device="cpu", chunk_pairs=2)
    assert np.array_equal(tight.flow(clip), expected)
    assert seen == [7, 4, 2, 2, 2, 1]
    assert "out of memory" in caplog.text
    monkeypatch.setattr(torch_engine, "solve_pairs", lambda *a: solve(*a, most=0))
    with pytest.raises(ReciprocalError, match="one pair at 24x20"):
        TorchTVL1(FEW, device="cpu").flow(clip)
    monkeypatch.setattr(torch_engine, "solve_pairs", lambda *_: (_ for _ in ()).throw(RuntimeError("another fault")))
    with pytest.raises(RuntimeError, match="another fault"):
        TorchTVL1(FEW, device="cpu").flow(clip)


def test_wrong_input_is_named(engine, monkeypatch, caplog):
    with pytest.raises(ValueError, match=r"got float32 \(2, 16, 16\)"):
        engine.flow(np.zeros((2, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"got torch.uint8 \(2, 16, 15\)"):
        engine.flow_pairs(torch.zeros(2, 16, 16, dtype=torch.uint8), torch.zeros(2, 16, 15, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="device = 'tpu'"):
        TorchTVL1(device="tpu")
    with pytest.raises(ConfigError, match=r"flow_mode = 'fast': use one of tvl1, tvl1-fast"):
        TorchTVL1(mode="fast")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device = 'cuda': torch sees no CUDA device"):
        TorchTVL1(device="cuda")
    caplog.set_level(logging.WARNING)
    assert TorchTVL1().describe()["arithmetic"] == "torch"
    assert "plain torch" in caplog.text


def test_a_gpu_without_triton_is_refused(monkeypatch):
    """With a GPU the slow way must never be taken in silence."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match=r"Triton is not installed|TRITON_INTERPRET = '1': unset it"):
        TorchTVL1()
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="Triton is not installed"):
        TorchTVL1()


def test_fast_mode_is_labelled(engine):
    fast = TorchTVL1(FEW, mode="tvl1-fast", device="cpu")
    assert fast.describe() | {"mode": "tvl1"} == engine.describe()
    assert TorchTVL1(mode="tvl1-fast", device="cpu").describe()["parameters"]["settled_px"] > 0


@needs_triton
@pytest.mark.slow
def test_triton_kernels_under_the_interpreter():
    """Kernel by kernel and as a whole, in a process that has TRITON_INTERPRET set before anything imports Triton."""
    checks = Path(__file__).with_name("kernel_checks.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(\d+) passed in", done.stdout, re.M), done.stdout


def test_a_chunk_is_bounded_by_its_pixels_by_memory_and_by_number():
    assert torch_engine.chunk_of(340 * 256, 150 * 10**9, 88) == 128
    assert torch_engine.chunk_of(680 * 512, 150 * 10**9, 88) == 32
    assert torch_engine.chunk_of(340 * 256, 16 * 10**9, 88) == 65  # of half a gigabyte
    assert torch_engine.chunk_of(16 * 16, 150 * 10**9, 88) == 256
    assert torch_engine.chunk_of(10**9, 8 * 10**9, 88) == 1
