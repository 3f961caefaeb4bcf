"""TV-L1 against displacements that are known by construction."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError
from preprocessing.flow.base import to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.flow.opencv import OpenCVTVL1


def texture(height: int, width: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """A sum of waves, sampled analytically at (x - dx, y - dy): the picture moved by (dx, dy) without any
    interpolation.
    """
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    value = np.zeros((height, width))
    for _ in range(24):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(7, 30), rng.uniform(0, 2 * np.pi)
        value += np.sin(2 * np.pi * (np.cos(angle) * (x - dx) + np.sin(angle) * (y - dy)) / period + phase)
    return np.clip(128 + 18 * value, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(("dx", "dy"), [(0.4, -0.3), (-1.5, 0.75), (2.0, 1.0)])
def test_a_known_translation_is_found(dx, dy):
    flow = OpenCVTVL1().flow(np.stack([texture(64, 80), texture(64, 80, dx, dy)]))
    assert flow.shape == (1, 2, 64, 80)
    assert flow.dtype == np.float32
    inner = flow[0, :, 8:-8, 8:-8]
    error = np.hypot(inner[0] - dx, inner[1] - dy).mean()
    assert error < 0.1, f"mean error {error:.3f} px; mean flow {inner.mean((1, 2))}"


def test_frames_are_paired_with_their_successors():
    frames = np.stack([texture(48, 48), texture(48, 48, 1.0), texture(48, 48, 1.0), texture(48, 48, 1.0, -1.0)])
    u, v = OpenCVTVL1().flow(frames)[:, :, 10:-10, 10:-10].mean((2, 3)).T
    assert u == pytest.approx([1, 0, 0], abs=0.1)
    assert v == pytest.approx([0, 0, -1], abs=0.1)


def test_a_clip_does_not_depend_on_what_was_computed_before():
    engine, frames = OpenCVTVL1(), np.stack([texture(40, 56), texture(40, 56, 1.3)])
    fresh = engine.flow(frames)
    engine.flow(np.stack([texture(16, 16), texture(16, 16, 0.5)]))  # a small clip lowers an object's number of scales
    assert np.array_equal(engine.flow(frames), fresh)


def test_brightness_is_that_of_rgb():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
    assert np.abs(to_gray(rgb) - rgb @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"expected uint8 \(T, H, W\) with T >= 2, got float32 \(2, 16, 16\)"):
        OpenCVTVL1().flow(np.zeros((2, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"\(1, 16, 16\)"):
        OpenCVTVL1().flow(np.zeros((1, 16, 16), np.uint8))
    with pytest.raises(ConfigError, match=r"flow_engine = 'farneback': use one of .*opencv"):
        flow_engine("farneback")


def test_engine_is_the_library_with_default_parameters():
    a, b = texture(48, 64), texture(48, 64, 2.5, 1.5)
    expected = cv2.optflow.createOptFlow_DualTVL1().calc(a, b, None)
    assert np.array_equal(flow_engine("opencv").flow(np.stack([a, b]))[0], expected.transpose(2, 0, 1))
