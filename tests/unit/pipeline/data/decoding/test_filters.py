"""The short bands of the compiled resize against torch's resize of unit pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from pipeline.data.decoding.filters import Band, half_span, halved, mirrored, triangle


def dense(band: Band, inputs: int) -> np.ndarray:
    """(outputs, inputs) matrix of a band; a tap outside would raise."""
    matrix = np.zeros((len(band.first), inputs))
    for row, (first, weights) in enumerate(zip(band.first, band.weights, strict=True)):
        for k, weight in enumerate(weights):
            matrix[row, first + k] += weight
    return matrix


def torch_matrix(inputs: int, outputs: int, antialias: bool = True) -> np.ndarray:
    """What torch's bilinear resize does to each unit vector: (outputs, inputs)."""
    units = torch.eye(inputs, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, 2)
    return (
        interpolate(units, size=(outputs, 2), mode="bilinear", align_corners=False, antialias=antialias)[:, 0, :, 0]
        .numpy()
        .T
    )


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 300), outputs=st.integers(2, 260))
def test_the_triangle_filter_is_torchs(length: int, outputs: int) -> None:
    band = triangle(length, outputs)
    assert band.first.min() >= 0
    assert (band.first + band.weights.shape[1]).max() <= length, "compiled loops would read beyond the crop"
    np.testing.assert_allclose(dense(band, length), torch_matrix(length, outputs), atol=2e-6)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), half=st.integers(2, 130), outputs=st.integers(2, 200))
def test_chroma_is_interpolated_then_resized(data, half: int, outputs: int) -> None:
    full = 2 * half
    length = data.draw(st.integers(1, full))
    start = data.draw(st.integers(0, full - length))
    band, (begin, end) = halved(length, outputs, start, full), half_span(start, length, full)
    assert 0 <= begin < end <= half
    assert band.first.min() >= 0
    assert (band.first + band.weights.shape[1]).max() <= end - begin
    up = torch_matrix(half, full, antialias=False)[start : start + length]
    assert not up[:, :begin].any()
    assert not up[:, end:].any(), "the span misses samples that are needed"
    np.testing.assert_allclose(dense(band, end - begin), torch_matrix(length, outputs) @ up[:, begin:end], atol=3e-6)


@pytest.mark.parametrize("length", [37, 240])
def test_a_mirrored_band_is_the_mirror(length: int) -> None:
    band = triangle(length, 64)
    np.testing.assert_array_equal(dense(mirrored(band), length), dense(band, length)[::-1])
