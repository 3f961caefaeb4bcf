"""TV-L1 on one pyramid level: warps, medians and the primal-dual iteration (Zach, Pock, Bischof 2007, section 3).

An iteration is one sweep over the picture, in place: row y gets its new flow, then row y - 1, whose lower neighbour
is new by now, its new dual variable. Flow (pitch 32: u, v) and dual variable (pitch 64: p11, p12, p21, p22) have a row
of zeros above and below, and zeros past the width, so that no border needs a branch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from preprocessing.flow.numba.median import median_5x5
from preprocessing.flow.numba.pyramid import LANES, blocks_of, clear
from preprocessing.flow.numba.simd import load, maximum, minimum, shift_down, shift_up, splat, sqrt, store, total
from preprocessing.flow.numba.warp import interleave, linearise

U, P = 2 * LANES, 4 * LANES  # pitches of the flow, and of the dual variable and the data term
V = LANES


@njit
def _sweep_row(
    w: np.ndarray,
    u: int,
    p: int,
    data: int,
    mask: int,
    blocks: int,
    tau_y: np.float32,
    theta: np.float32,
    limit: np.float32,
) -> float:
    """New flow of row y, new dual variable of row y - 1; the sum of the flow's squared change.

    Args:
        u, p, data: offsets of row y.
        mask: offset of a row of tau/theta where there is a right neighbour, else 0.
        tau_y: tau/theta, or 0 where row y - 1 is the last one.
        limit: lambda theta.
    """
    up, left_up = U * blocks, P * blocks
    step_y, coupling, high, low, one = splat(tau_y), splat(theta), splat(limit), splat(-limit), splat(np.float32(1))
    change = left1 = left2 = splat(np.float32(0))
    above1, above2 = load(w, u - up), load(w, u - up + V)
    for b in range(blocks):
        i, j, k = u + b * U, p + b * P, data + b * P
        u1, u2 = load(w, i), load(w, i + V)
        p11, p12, p21, p22 = load(w, j), load(w, j + V), load(w, j + 2 * V), load(w, j + 3 * V)
        q = j - left_up  # row y - 1, still the old p
        q11, q12, q21, q22 = load(w, q), load(w, q + V), load(w, q + 2 * V), load(w, q + 3 * V)
        gx, gy = load(w, k), load(w, k + V)
        # v - u: the thresholding step, as one clamped step along the gradient
        step = minimum(maximum((load(w, k + 2 * V) + (gx * u1 + gy * u2)) * load(w, k + 3 * V), low), high)
        change1 = coupling * ((p11 - shift_up(left1, p11)) + (p12 - q12)) - step * gx
        change2 = coupling * ((p21 - shift_up(left2, p21)) + (p22 - q22)) - step * gy
        left1, left2 = p11, p21
        change += change1 * change1 + change2 * change2
        u1 += change1
        u2 += change2
        store(w, i, u1)
        store(w, i + V, u2)
        # tau/theta times the forward differences of row y - 1; right of the last block anything finite, the mask is 0
        right1, right2, step_x = load(w, i - up + U), load(w, i - up + U + V), load(w, mask + b * V)
        x1, y1 = step_x * (shift_down(above1, right1) - above1), step_y * (u1 - above1)
        x2, y2 = step_x * (shift_down(above2, right2) - above2), step_y * (u2 - above2)
        above1, above2 = right1, right2
        norm1, norm2 = one + sqrt(x1 * x1 + y1 * y1), one + sqrt(x2 * x2 + y2 * y2)
        inverse1, inverse2 = one / norm1, one / norm2
        store(w, q, (q11 + x1) * inverse1)
        store(w, q + V, (q12 + y1) * inverse1)
        store(w, q + 2 * V, (q21 + x2) * inverse2)
        store(w, q + 3 * V, (q22 + y2) * inverse2)
    return total(change)


@njit
def iterate(
    w: np.ndarray,
    u: int,
    p: int,
    data: int,
    mask: int,
    height: int,
    blocks: int,
    tau: np.float32,
    theta: np.float32,
    limit: np.float32,
) -> float:
    """One iteration; returns the sum of squared changes, added row by row in double precision.

    Args:
        u, p, data: offsets of row 0.
        mask: as in ``_sweep_row``, followed by a row of zeros.
    """
    zero, zeros, change = np.float32(0), mask + V * blocks, 0.0
    for y in range(height + 1):  # the row past the end only completes the last row's dual variable
        row_tau = tau if 0 < y < height else zero
        row_mask = mask if y > 0 else zeros
        change += _sweep_row(
            w, u + y * U * blocks, p + y * P * blocks, data + y * P * blocks, row_mask, blocks, row_tau, theta, limit
        )
    return change


@njit
def _moved(w: np.ndarray, u: int, start: int, height: int, blocks: int) -> float:
    """Sum of the squared distances between two flows, added row by row in double precision."""
    moved = 0.0
    for y in range(height):
        row = splat(np.float32(0))
        for i in range(y * U * blocks, (y + 1) * U * blocks, LANES):
            d = load(w, u + i) - load(w, start + i)
            row += d * d
        moved += total(row)
    return moved


@njit
def solve_level(
    w: np.ndarray,
    reference: int,
    picture: int,
    u: int,
    spare: int,
    start: int,
    p: int,
    data: int,
    interleaved: int,
    table: int,
    scratch: int,
    height: int,
    width: int,
    tau: np.float32,
    theta: np.float32,
    limit: np.float32,
    epsilon: float,
    settled: float,
    warps: int,
    outer: int,
    inner: int,
    median: bool,
) -> tuple[int, int]:
    """Improve the flow at ``u``. Returns where it is now (``u`` or ``spare``) and the number of iterations.

    Args:
        reference, picture: the two pictures, pitch 16.
        u, spare, p, data: offsets of row 0 (one row of zeros is in front, one behind).
        start: a flow's place, for what a warp begins with.
        settled: ``TVL1Params.settled_px``.
        scratch: sixteen rows.
    """
    blocks = blocks_of(width)
    row, rows = blocks * LANES, height + 2
    mask, ramp, buffers = scratch, scratch + 2 * row, scratch + 4 * row
    clear(w, scratch, 4 * row)
    for x in range(width):
        w[ramp + x] = x
        w[mask + x] = tau if x < width - 1 else np.float32(0)
    clear(w, spare - 2 * row, 2 * row * rows)
    clear(w, p - 4 * row, 4 * row * rows)
    clear(w, data - 4 * row, 4 * row * rows)
    interleave(w, picture, height, width, interleaved)
    enough, iterations = epsilon * epsilon * height * width, 0
    for _ in range(warps):
        if settled > 0:
            for i in range(0, 2 * row * height, LANES):
                store(w, start + i, load(w, u + i))
        linearise(w, reference, interleaved, u, data, height, width, table, ramp, buffers)
        change, rounds = np.inf, 0
        while change > enough and rounds < outer:
            rounds += 1
            if median:
                median_5x5(w, u, spare, U, height, width, buffers)
                median_5x5(w, u + V, spare + V, U, height, width, buffers)
                u, spare = spare, u
            steps = 0
            while change > enough and steps < inner:
                steps += 1
                change = iterate(w, u, p, data, mask, height, blocks, tau, theta, limit)
            iterations += steps
        if settled > 0 and _moved(w, u, start, height, blocks) <= settled * settled * height * width:
            break
    return u, iterations
