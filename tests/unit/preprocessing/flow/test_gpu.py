"""TV-L1 on a GPU: the kernels, the engine against OpenCV, the bits, and how many pairs a second.

pytest -m gpu -s tests/unit/preprocessing/flow/test_gpu.py prints the figures.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.flow.params import TVL1Params
from preprocessing.flow.torch.engine import TorchTVL1
from tests.support.paths import ROOT
from tests.support.stored_flows import opencv_flow

pytestmark = pytest.mark.gpu
FIXED = (
    TVL1Params(epsilon=0, scales=1, warps=1, outer_iterations=1, inner_iterations=10),
    TVL1Params(epsilon=0, warps=1, outer_iterations=1, inner_iterations=10),
)


def moving(height: int, width: int, count: int, dx: float = 0.7, dy: float = -0.4) -> np.ndarray:
    """(count, H, W) uint8: a texture that moves evenly, a disc of it the other way."""
    spec = importlib.util.spec_from_file_location("test_flow", Path(__file__).with_name("test_flow.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    y, x = np.mgrid[:height, :width]
    frames = []
    for t in range(count):
        inside = np.hypot(x - width / 2 + 2 * t, y - height / 2) < height / 5
        frames.append(
            np.where(
                inside, module.texture(height, width, -2.0 * t, 0.3 * t), module.texture(height, width, dx * t, dy * t)
            )
        )
    return np.stack(frames)


def against_opencv() -> list[tuple[np.ndarray, TVL1Params | None]]:
    """Clips of these tests, and the parameters with which OpenCV is asked for their flow."""
    return [*((moving(97, 131, 3), params) for params in FIXED), (moving(128, 170, 5), None)]


def test_kernels_one_by_one():
    """The checks that run under the interpreter elsewhere, on the GPU."""
    checks = Path(__file__).with_name("kernel_checks.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(\d+) passed in", done.stdout, re.M), done.stdout


def test_fixed_iterations_are_opencv_s():
    clip = moving(97, 131, 3)
    for params, bar in zip(FIXED, (lambda d: d.max() <= 1e-5, lambda d: d.mean() <= 1e-4), strict=True):
        distance = np.abs(TorchTVL1(params, device="cuda").flow(clip) - opencv_flow(clip, params))
        assert bar(distance), f"{params}: max {distance.max():.2e}, mean {distance.mean():.2e} px"


@pytest.mark.parametrize(("mode", "mean_px", "within"), [("tvl1", 0.05, 0.94), ("tvl1-fast", 0.10, 0.90)])
def test_default_parameters_stay_with_opencv(mode, mean_px, within):
    clip = moving(128, 170, 5)
    ours, reference = TorchTVL1(mode=mode, device="cuda").flow(clip), opencv_flow(clip)
    distance = np.hypot(*(ours - reference).transpose(1, 0, 2, 3))
    print(
        f"{mode}: mean {distance.mean():.4f} px, within 0.1 px {(distance <= 0.1).mean():.4f}, over 1 px"
        f" {(distance > 1).mean():.5f}"
    )
    assert distance.mean() <= mean_px
    assert (distance <= 0.1).mean() >= within
    if mode == "tvl1":
        assert (distance > 1).mean() <= 0.005
        assert distance.mean((1, 2)).max() <= 0.2


def test_bits_do_not_depend_on_chunks_or_graphs():
    clip = moving(120, 160, 14)
    clip[3] = clip[2]  # a static pair among moving ones
    expected = TorchTVL1(device="cuda").flow(clip)
    assert not expected[2].any()
    for options in ({"graphs": False}, {"chunk_pairs": 1}, {"chunk_pairs": 3}, {"chunk_pairs": 5, "graphs": False}):
        assert np.array_equal(TorchTVL1(device="cuda", **options).flow(clip), expected), options
    engine = TorchTVL1(device="cuda")
    assert np.array_equal(engine.flow(clip[5:]), expected[5:]), "another place in the clip"
    frames = torch.from_numpy(clip).cuda()
    order = torch.randperm(len(clip) - 1)
    shuffled = engine.flow_pairs(frames[:-1][order], frames[1:][order])
    assert np.array_equal(shuffled.cpu().numpy(), expected[order.numpy()]), "another order of the pairs"


def test_memory_is_bounded_whatever_the_clip_and_the_sizes():
    engine = TorchTVL1(TVL1Params(warps=1, outer_iterations=1, inner_iterations=2), device="cuda", chunk_pairs=16)
    peaks = []
    for groups in (1, 3):
        torch.cuda.reset_peak_memory_stats()
        engine.flow(np.zeros((groups * engine.group_pairs(256, 340) + 1, 256, 340), np.uint8))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.1 * peaks[0]
    kept = []
    for width in range(200, 216):
        engine.flow(np.zeros((3, 128, width), np.uint8))
        kept.append(torch.cuda.memory_allocated())
    assert max(kept[8:]) <= 1.1 * max(kept[:8])


@pytest.mark.parametrize("mode", ["tvl1", "tvl1-fast"])
def test_pairs_per_second(mode):
    """Figures for a person; the bar is held by python -m jobs.bench on real clips."""
    first, second = (torch.from_numpy(moving(256, 340, 65)[s]).cuda() for s in (slice(None, -1), slice(1, None)))
    for chunk in (None, 4, 8, 16, 32, 64):
        engine = TorchTVL1(mode=mode, device="cuda", chunk_pairs=chunk)
        engine.flow_pairs(first, second)
        torch.cuda.synchronize()
        start = time.perf_counter()
        engine.flow_pairs(first, second)
        torch.cuda.synchronize()
        rate = len(first) / (time.perf_counter() - start)
        print(
            f"{torch.cuda.get_device_name()}: {mode}, chunk {chunk or engine.chunk_pairs(256, 340)}: {rate:.0f} pairs/s"
            " at 340x256"
        )
    assert rate > 0
