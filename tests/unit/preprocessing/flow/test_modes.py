"""What a mode means: the same in every engine, pair by pair, and how near to OpenCV it stays where motion is large."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from preprocessing.flow.base import FlowEngine
from preprocessing.flow.compare import Agreement
from preprocessing.flow.factory import flow_engine
from preprocessing.flow.numba.engine import NumbaTVL1
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.pairs import Pairs, pick_pairs, translated_pairs
from preprocessing.flow.params import FlowMode, TVL1Params, params_of
from preprocessing.flow.torch.engine import TorchTVL1


def on_cpu(params: TVL1Params | None = None, mode: FlowMode = "tvl1") -> TorchTVL1:
    return TorchTVL1(params, mode, device="cpu")


ENGINES = pytest.mark.parametrize("make", [NumbaTVL1, on_cpu], ids=["numba", "torch"])


def texture(height: int, width: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """Waves sampled analytically at (x - dx, y - dy): moved by (dx, dy) without interpolation. uint8."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    value = np.zeros((height, width))
    for _ in range(24):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(8, 40), rng.uniform(0, 2 * np.pi)
        value += np.sin(2 * np.pi * (np.cos(angle) * (x - dx) + np.sin(angle) * (y - dy)) / period + phase)
    return np.clip(128 + 18 * value, 0, 255).round().astype(np.uint8)


@ENGINES
@pytest.mark.parametrize(("dx", "dy"), [(0.2, 0.1), (1.5, -0.8), (4.0, 2.0)])
@pytest.mark.slow
def test_a_level_ends_with_the_first_warp_that_hardly_moves_the_flow(make: Callable[..., FlowEngine], dx, dy):
    pair = np.stack([texture(40, 56), texture(40, 56, dx, dy)])
    few = TVL1Params(scales=1, outer_iterations=2, inner_iterations=12)
    flows = [np.zeros((1, 2, 40, 56), np.float32)]
    flows += [make(dataclasses.replace(few, warps=k)).flow(pair) for k in range(1, 6)]
    moves = [float(np.sqrt(np.square(b - a).sum(1).mean())) for a, b in itertools.pairwise(flows)]
    ends = set()
    for settled_px in (0.005, 0.02, 0.05, 0.1, 0.3, 1.0):
        assert not any(abs(m / settled_px - 1) < 1e-3 for m in moves), "rounding would decide"
        end = next((k for k, m in enumerate(moves, 1) if m <= settled_px), 5)
        found = make(dataclasses.replace(few, settled_px=settled_px)).flow(pair)
        assert np.array_equal(found, flows[end]), f"{settled_px} px: not the flow after warp {end} of moves {moves}"
        ends.add(end)
    assert len(ends) > 1


@pytest.mark.parametrize("mode", ["tvl1", "tvl1-fast"])
def test_engines_mean_the_same_by_a_mode(mode: FlowMode):
    numba, torch = flow_engine("numba", mode), on_cpu(mode=mode)
    assert numba.describe()["parameters"] == torch.describe()["parameters"]
    clip = np.stack([texture(48, 64), texture(48, 64, 0.3), texture(48, 64, 3.3, 1.5)])
    agreement = Agreement.of(numba.flow(clip), torch.flow(clip))
    assert agreement.mean_epe <= 0.02, agreement
    assert agreement.worst_pair_epe <= 0.04, agreement
    assert agreement.over_1px <= 0.002, agreement


def test_exact_flow_is_described_as_in_records_that_are_stored():
    assert flow_engine("numba").describe() == {
        "engine": "numba",
        "version": "1",
        "mode": "tvl1",
        "parameters": {
            "tau": 0.25,
            "lambda_": 0.15,
            "theta": 0.3,
            "epsilon": 0.01,
            "scales": 5,
            "scale_step": 0.8,
            "warps": 5,
            "outer_iterations": 10,
            "inner_iterations": 30,
            "median": True,
        },
    }
    fast = flow_engine("numba", "tvl1-fast").describe()["parameters"]
    assert fast["settled_px"] == params_of("tvl1-fast").settled_px > 0
    with pytest.raises(ConfigError, match=r"flow_mode = 'fast': use one of tvl1, tvl1-fast"):
        NumbaTVL1(mode="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="settled_px must be 0"):
        OpenCVTVL1(params_of("tvl1-fast"))


def test_large_motion_gets_warps_that_small_motion_does_without():
    exact, fast = flow_engine("numba"), flow_engine("numba", "tvl1-fast")
    assert isinstance(exact, NumbaTVL1)
    assert isinstance(fast, NumbaTVL1)
    still, far = (np.stack([texture(96, 128), texture(96, 128, dx)]) for dx in (0.0, 6.0))
    slow = still.copy()
    slow[1, 40:64, 50:74] = texture(96, 128, 0.5)[40:64, 50:74]  # all else stands still
    for pair, most in ((still, 0.2), (slow, 0.7)):
        exact.flow(pair), fast.flow(pair)
        assert fast.iterations[0] <= most * exact.iterations[0] + 1e-9
    assert np.array_equal(fast.flow(far), exact.flow(far))


@pytest.fixture(scope="module")
def large_motion(real_data: Path) -> dict[str, tuple[Pairs, np.ndarray]]:
    """Small pairs by kind, and OpenCV's flow of each."""
    size, clips = (112, 84), real_data / "clips"
    kinds = {
        "10 fps": pick_pairs(clips, 6, size, fps=10),
        "fastest": pick_pairs(clips, 6, size, fastest=True),
        "translations": translated_pairs(clips, 6, size, (2, 3, 4)),
    }
    reference = OpenCVTVL1()
    return {k: (p, np.concatenate([reference.flow(pair) for pair in p.gray_N2HW])) for k, p in kinds.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tvl1", "tvl1-fast"])
@pytest.mark.parametrize("kind", ["10 fps", "fastest", "translations"])
def test_bar_is_held_where_motion_is_large(large_motion, mode, kind):
    pairs, reference = large_motion[kind]
    engine = flow_engine("numba", mode)
    flow = np.concatenate([engine.flow(pair) for pair in pairs.gray_N2HW])
    agreement = Agreement.of(flow, reference)
    assert agreement.meets(fast=mode != "tvl1"), agreement
    if pairs.truth_N2 is not None:
        assert pairs.error_to_truth(flow) <= pairs.error_to_truth(reference) + 0.02
