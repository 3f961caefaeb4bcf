"""Our TV-L1 for the CPU against OpenCV's, and its kernels against OpenCV's filters."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.flow.compare import Agreement, exactness
from preprocessing.flow.factory import flow_engine
from preprocessing.flow.numba import pair
from preprocessing.flow.numba.engine import NumbaTVL1, level_sizes
from preprocessing.flow.numba.median import MEDIAN_AT, NETWORK, SORT_5, median_5x5
from preprocessing.flow.numba.pyramid import resize
from preprocessing.flow.numba.warp import MARGIN, cubic_table, interleave, linearise
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.pairs import pick_pairs
from preprocessing.flow.params import TVL1Params
from tests.support.paths import ROOT


def texture(height: int, width: int, dx: float = 0.0, dy: float = 0.0, seed: int = 5) -> np.ndarray:
    """Waves sampled analytically at (x - dx, y - dy): moved by (dx, dy) without interpolation. uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    value = np.zeros((height, width))
    for _ in range(24):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(6, 30), rng.uniform(0, 2 * np.pi)
        value += np.sin(2 * np.pi * (np.cos(angle) * (x - dx) + np.sin(angle) * (y - dy)) / period + phase)
    return np.clip(128 + 18 * value, 0, 255).round().astype(np.uint8)


def moving(frames: int, height: int, width: int) -> np.ndarray:
    """A clip whose motion changes from frame to frame."""
    return np.stack([texture(height, width, 0.4 * t + 0.1 * t * t, 0.7 * np.sin(t)) for t in range(frames)])


def padded(plane: np.ndarray, pitch: int = 16) -> np.ndarray:
    """(H, W) as a flat picture of the workspace: blocks of 16 pixels, ``pitch`` floats apart, zeros past the width."""
    height, width = plane.shape
    blocks = -(-width // 16)
    rows = np.zeros((height, blocks, pitch), np.float32)
    rows[:, :, :16] = np.pad(plane, ((0, 0), (0, 16 * blocks - width))).reshape(height, blocks, 16)
    return rows.ravel()


def unpadded(flat: np.ndarray, height: int, width: int, pitch: int = 16, component: int = 0) -> np.ndarray:
    blocks = -(-width // 16)
    return (
        flat[: height * blocks * pitch]
        .reshape(height, blocks, pitch)[:, :, 16 * component :][:, :, :16]
        .reshape(height, -1)[:, :width]
    )


# --- the algorithm


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (17, 40), (20, 20), (31, 33), (40, 17), (48, 64), (105, 139), (171, 227)]
)
def test_iterations_are_opencvs(height, width):
    pair = np.stack([texture(height, width), texture(height, width, 1.5, -0.8)])
    found = exactness(NumbaTVL1, [pair])
    assert found.max_1_scale <= 1e-5, found
    assert found.mean_5_scales <= 1e-4, found
    # the comparison sees the flow: it is not all zeros
    params = TVL1Params(epsilon=0.0, scales=1, warps=1, outer_iterations=1, inner_iterations=10)
    assert np.abs(NumbaTVL1(params).flow(pair)).max() > 0.3


@pytest.mark.parametrize("median", [True, False])
def test_other_parameters_are_opencvs(median):
    params = TVL1Params(
        tau=0.2,
        lambda_=0.1,
        theta=0.25,
        epsilon=0.0,
        scales=3,
        scale_step=0.6,
        warps=2,
        outer_iterations=2,
        inner_iterations=4,
        median=median,
    )
    pair = np.stack([texture(70, 90), texture(70, 90, 0.7, 0.4)])
    difference = np.abs(NumbaTVL1(params).flow(pair) - OpenCVTVL1(params).flow(pair))
    assert difference.mean() <= 1e-4, difference.mean()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (19, 50), (64, 80)])
def test_whole_algorithm_with_its_stop_test(height, width):
    pair = np.stack([texture(height, width), texture(height, width, -0.9, 0.6)])
    agreement = Agreement.of(NumbaTVL1().flow(pair), OpenCVTVL1().flow(pair))
    assert agreement.meets(fast=False), agreement


@pytest.mark.parametrize(("dx", "dy"), [(0.4, -0.3), (-1.5, 0.75), (2.0, 1.0), (0.0, -3.0)])
def test_known_translations_are_found(dx, dy):
    pair = np.stack([texture(64, 80), texture(64, 80, dx, dy)])
    ours, reference = (
        np.hypot(*(e.flow(pair)[0] - np.array([dx, dy])[:, None, None])).mean() for e in (NumbaTVL1(), OpenCVTVL1())
    )
    assert ours <= reference + 0.02
    assert ours < 0.2


def test_pyramid_levels_are_those_of_repeated_resizing():
    assert level_sizes(256, 340, TVL1Params()) == [(256, 340), (205, 272), (164, 218), (131, 174), (105, 139)]
    for height, width in [(16, 16), (20, 20), (25, 400), (171, 227)]:
        picture, expected = np.zeros((height, width), np.float32), [(height, width)]
        while len(expected) < 5:
            picture = cv2.resize(picture, None, fx=0.8, fy=0.8)
            if min(picture.shape) < 16:
                break
            expected.append(picture.shape)
        assert level_sizes(height, width, TVL1Params()) == expected


# --- bits


def test_a_pair_has_the_same_bits_at_any_position():
    clip = moving(9, 45, 61)
    whole = NumbaTVL1().flow(clip)
    parts = np.concatenate([NumbaTVL1().flow(clip[:5]), NumbaTVL1().flow(clip[4:])])
    assert np.array_equal(whole, parts)
    engine = NumbaTVL1()
    engine.flow(moving(3, 90, 33))  # another size, larger, leaves its numbers in the workspace
    engine.flow(moving(2, 16, 20))
    assert np.array_equal(engine.flow(clip[3:5])[0], whole[3])
    assert np.array_equal(engine.flow(np.ascontiguousarray(clip[:, :, ::-1])[:, :, ::-1]), whole)  # strides
    frozen = clip.copy()
    frozen.setflags(write=False)  # as frames from shared memory are
    assert np.array_equal(engine.flow(frozen), whole)


def test_threads_do_not_disturb_each_other():
    clips = [moving(3, 40 + 3 * k, 50 - 2 * k) for k in range(6)]
    alone = [NumbaTVL1().flow(clip) for clip in clips]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda clip: NumbaTVL1().flow(clip), clips * 3))
    for k, flow in enumerate(together):
        assert np.array_equal(flow, alone[k % len(clips)])


@pytest.mark.slow  # compiles for another CPU
def test_bits_do_not_depend_on_the_instruction_set(tmp_path):
    clip = moving(2, 60, 75)
    np.save(tmp_path / "clip.npy", clip)
    script = (
        "import sys, hashlib, numpy as np; from preprocessing.flow.numba.engine import NumbaTVL1;"
        "print(hashlib.sha256(NumbaTVL1().flow(np.load(sys.argv[1])).tobytes()).hexdigest())"
    )
    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "clip.npy")],
        cwd=ROOT,
        env=os.environ | plain,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout.strip() == hashlib.sha256(NumbaTVL1().flow(clip).tobytes()).hexdigest(), done.stderr[-2000:]


@pytest.mark.parametrize("name", ["black", "white", "noise", "flash", "static", "edge"])
def test_degenerate_pairs_end_and_stay_finite(name):
    rng = np.random.default_rng(0)
    black, white, noise = (
        np.zeros((37, 43), np.uint8),
        np.full((37, 43), 255, np.uint8),
        rng.integers(0, 256, (2, 37, 43)).astype(np.uint8),
    )
    edge = np.where(np.arange(43) < 20, black, white)
    pair = {
        "black": [black, black],
        "white": [white, white],
        "noise": noise,
        "flash": [black, white],
        "static": [noise[0]] * 2,
        "edge": [edge, np.roll(edge, 9, axis=1)],
    }[name]
    engine = NumbaTVL1()
    flow, p = engine.flow(np.stack(pair)), engine.params
    assert np.isfinite(flow).all()
    assert np.abs(flow).max() < 43
    most = p.warps * p.outer_iterations * p.inner_iterations * sum(h * w for h, w in level_sizes(37, 43, p)) / (37 * 43)
    assert 0 < engine.iterations[0] <= most * (1 + 1e-9)
    if name in ("black", "white", "flash", "static"):
        assert not flow.any()  # no gradient, or nothing to explain
        assert engine.iterations[0] <= p.warps * len(level_sizes(37, 43, p))


# --- kernels


def test_median_network_by_the_0_1_principle():
    """Exchanges commute with thresholds, so a network that is right for zeros and ones is right for all numbers."""
    heights = np.indices([6] * 5).reshape(5, -1)  # ones in each of five sorted columns: all 7776 states
    columns = {5 * r + c: r >= 5 - heights[c] for r in range(5) for c in range(5)}
    expected = heights.sum(0) >= 13

    def median(network):
        values = dict(columns)
        for i, j in network:
            values[i], values[j] = values[i] & values[j], values[i] | values[j]
        return values[MEDIAN_AT]

    assert np.array_equal(median(NETWORK), expected)
    needless = [k for k in range(len(NETWORK)) if np.array_equal(median(NETWORK[:k] + NETWORK[k + 1 :]), expected)]
    assert not needless, f"exchanges {needless} can go"
    ones = np.indices([2] * 5).reshape(5, -1).astype(bool)
    values = list(ones)
    for i, j in SORT_5:
        values[i], values[j] = values[i] & values[j], values[i] | values[j]
    assert np.array_equal(np.stack(values), np.sort(ones, axis=0))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 16), (7, 17), (23, 31), (40, 66)])
def test_median_is_opencvs(height, width):
    plane = np.random.default_rng(height).normal(size=(height, width)).astype(np.float32)
    plane[::3] = plane[::3].round()  # ties
    source = padded(plane, 32)
    w, target, scratch = np.zeros(2 * source.size + 5 * (width + 64) + 64, np.float32), source.size, 2 * source.size
    w[: source.size] = source
    median_5x5(w, 0, target, 32, height, width, scratch)
    assert np.array_equal(unpadded(w[target:], height, width, 32), cv2.medianBlur(plane, 5))
    past = w[target : target + source.size].reshape(height, -1, 32)[:, :, :16].reshape(height, -1)[:, width:]
    assert not past.any()


@pytest.mark.parametrize(
    ("size", "target"), [((40, 50), (32, 40)), ((17, 33), (14, 26)), ((21, 26), (26, 33)), ((13, 16), (16, 20))]
)
def test_resize_is_opencvs(size, target):
    plane = np.random.default_rng(1).uniform(0, 255, size).astype(np.float32)
    source = padded(plane)
    stride = 16 * -(-target[1] // 16)
    w = np.concatenate([source, np.zeros(target[0] * stride + 5 * stride, np.float32)])
    resize(
        w,
        0,
        *size,
        16,
        source.size,
        *target,
        16,
        size[0] / target[0],
        size[1] / target[1],
        2.0,
        source.size + target[0] * stride,
    )
    expected = 2 * cv2.resize(plane, target[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(unpadded(w[source.size :], *target) - expected).max() < 1e-3


@pytest.mark.parametrize(("height", "width"), [(19, 23), (33, 48)])
def test_warp_is_opencvs(height, width):
    rng = np.random.default_rng(2)
    first, second = rng.uniform(0, 255, (2, height, width)).astype(np.float32)
    u = rng.uniform(-8, 8, (2, height, width)).astype(np.float32)  # many taps outside
    u[:, 0, :4] = [[-1e6, 1e6, 0, -0.5], [1e6, 0, -1e6, 0.5]]
    row, blocks = 16 * -(-width // 16), -(-width // 16)
    at, parts = {}, []
    for name, part in {
        "table": cubic_table().ravel(),
        "first": padded(first),
        "second": padded(second),
        "flow": np.zeros(2 * row * height),
        "data": np.zeros(4 * row * height),
        "ramp": np.concatenate([np.arange(row), np.zeros(row)]),
        "scratch": np.zeros(12 * row),
        "inter": np.zeros((height + 2 * MARGIN) * (width + 2 * MARGIN) * 4 + 64),
    }.items():
        at[name] = sum(len(p) for p in parts)
        parts.append(np.pad(part, (0, -len(part) % 16)).astype(np.float32))
    w = np.concatenate(parts)
    flow = w[at["flow"] :][: 2 * row * height].reshape(height, blocks, 2, 16)
    for c in range(2):
        flow[:, :, c] = padded(u[c]).reshape(height, blocks, 16)
    interleave(w, at["second"], height, width, at["inter"])
    linearise(
        w, at["first"], at["inter"], at["flow"], at["data"], height, width, at["table"], at["ramp"], at["scratch"]
    )
    border = cv2.copyMakeBorder(second, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    gradients = [(border[1:-1, 2:] - border[1:-1, :-2]) / 2, (border[2:, 1:-1] - border[:-2, 1:-1]) / 2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    value, gx, gy = (cv2.remap(p, x + u[0], y + u[1], cv2.INTER_CUBIC) for p in (second, *gradients))
    data = w[at["data"] :]
    assert np.abs(unpadded(data, height, width, 64, 0) - gx).max() < 1e-3
    assert np.abs(unpadded(data, height, width, 64, 1) - gy).max() < 1e-3
    rho = value - gx * u[0] - gy * u[1] - first
    assert np.allclose(unpadded(data, height, width, 64, 2), rho, atol=0.01, rtol=1e-4)
    assert np.allclose(unpadded(data, height, width, 64, 3), 1 / np.maximum(gx**2 + gy**2, 1.1920929e-07), rtol=1e-2)


# --- the rest


def test_records_name_mode_and_parameters():
    exact, fast = flow_engine("numba"), flow_engine("numba", "tvl1-fast")
    assert exact.describe()["parameters"] == OpenCVTVL1().describe()["parameters"]
    assert (exact.describe()["engine"], exact.describe()["mode"], fast.describe()["mode"]) == (
        "numba",
        "tvl1",
        "tvl1-fast",
    )
    assert fast.describe()["parameters"] != exact.describe()["parameters"]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"expected uint8 \(T, H, W\) with T >= 2, got uint8 \(2, 16, 16, 3\)"):
        NumbaTVL1().flow(np.zeros((2, 16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    "error", [RuntimeError("no locator available"), OSError(28, "No space left on device"), EOFError()]
)
def test_a_cache_that_fails_does_not_fail_the_flow(monkeypatch, error):
    def entry(digest, cache):
        if cache:
            raise error
        return "compiled here"

    monkeypatch.setattr(pair, "_entry", entry)
    assert pair._compiled.__wrapped__() == "compiled here"


def real_agreement(engine, real_data: Path, count: int, size: tuple[int, int]) -> Agreement:
    gray, reference = real_pairs(real_data, count, size)
    return Agreement.of(np.concatenate([engine.flow(pair) for pair in gray]), reference)


@functools.cache
def real_pairs(real_data: Path, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of frames, and OpenCV's flow of each."""
    pairs = [
        pick_pairs(real_data / folder, count // 2, size).gray_N2HW for folder in ("clips", "ut_interaction/videos")
    ]
    gray, reference = np.concatenate(pairs), OpenCVTVL1()
    return gray, np.concatenate([reference.flow(pair) for pair in gray])


@pytest.mark.parametrize("mode", ["tvl1", "tvl1-fast"])
def test_real_clips_small(real_data, mode):
    agreement = real_agreement(flow_engine("numba", mode), real_data, 8, (112, 84))
    assert agreement.meets(fast=mode != "tvl1"), agreement


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tvl1", "tvl1-fast"])
def test_real_clips_at_full_size(real_data, mode):
    agreement = real_agreement(flow_engine("numba", mode), real_data, 24, (340, 256))
    assert agreement.meets(fast=mode != "tvl1"), agreement
