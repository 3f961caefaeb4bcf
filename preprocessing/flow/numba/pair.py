"""TV-L1 of one pair: pyramid, then every level from the coarsest on. And how it is compiled."""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit, types

from preprocessing.flow.numba.pyramid import LANES, blocks_of, clear, place, resize
from preprocessing.flow.numba.solver import U, solve_level

log = logging.getLogger(__name__)

# Positions in ``at`` of the workspace offsets.
TABLE, PYRAMID_A, PYRAMID_B, FLOW_A, FLOW_B, START, DUAL, DATA, INTERLEAVED, SCRATCH = range(10)
BUFFERS = 10

_ARGUMENTS = (
    types.float32[::1],
    types.Array(types.uint8, 3, "C", readonly=True),
    types.boolean,
    types.boolean,
    types.float32[:, :, ::1],
    types.int64[:, ::1],
    types.int64[::1],
    *[types.float64] * 6,
    *[types.int64] * 3,
    types.boolean,
)
_compiling = threading.Lock()


@njit
def _pyramid(w: np.ndarray, frame: np.ndarray, sizes: np.ndarray, start: int, shrink: float, scratch: int) -> None:
    place(frame, w, start)
    for s in range(1, len(sizes)):
        (height, width), (below, across) = sizes[s - 1], sizes[s]
        following = start + height * blocks_of(width) * LANES
        resize(w, start, height, width, LANES, following, below, across, LANES, 1 / shrink, 1 / shrink, 1.0, scratch)
        start = following


@njit
def _flow_pair(
    w: np.ndarray,
    frames: np.ndarray,
    known: bool,
    swapped: bool,
    out: np.ndarray,
    sizes: np.ndarray,
    at: np.ndarray,
    tau: float,
    lambda_: float,
    theta: float,
    epsilon: float,
    shrink: float,
    settled: float,
    warps: int,
    outer: int,
    inner: int,
    median: bool,
) -> float:
    scratch, top = at[SCRATCH], len(sizes) - 1
    first, second = (at[PYRAMID_B], at[PYRAMID_A]) if swapped else (at[PYRAMID_A], at[PYRAMID_B])
    if not known:
        _pyramid(w, frames[0], sizes, first, shrink, scratch)
    _pyramid(w, frames[1], sizes, second, shrink, scratch)
    for s in range(top):
        pixels = sizes[s, 0] * blocks_of(sizes[s, 1]) * LANES
        first, second = first + pixels, second + pixels
    here, other, work = at[FLOW_A], at[FLOW_B], 0.0
    for s in range(top, -1, -1):
        height, width = sizes[s]
        row = blocks_of(width) * LANES
        u, spare = here + 2 * row, other + 2 * row
        if s == top:
            clear(w, here, 2 * row * (height + 2))
        found, iterations = solve_level(
            w,
            first,
            second,
            u,
            spare,
            at[START],
            at[DUAL] + 4 * row,
            at[DATA] + 4 * row,
            at[INTERLEAVED],
            at[TABLE],
            scratch,
            height,
            width,
            np.float32(tau / theta),
            np.float32(theta),
            np.float32(lambda_ * theta),
            epsilon,
            settled,
            warps,
            outer,
            inner,
            median,
        )
        work += iterations * (height * width / (sizes[0, 0] * sizes[0, 1]))
        if found != u:
            here, other = other, here
        if s > 0:
            below, across = sizes[s - 1]
            finer = blocks_of(across) * LANES
            first, second = first - below * finer, second - below * finer
            clear(w, other, 2 * finer * (below + 2))
            for c in range(0, U, LANES):
                resize(
                    w,
                    found + c,
                    height,
                    width,
                    U,
                    other + 2 * finer + c,
                    below,
                    across,
                    U,
                    height / below,
                    width / across,
                    1 / shrink,
                    scratch,
                )
            here, other = other, here
    height, width = sizes[0]
    row = blocks_of(width) * LANES
    for c in range(2):
        for y in range(height):
            for x in range(width):
                out[c, y, x] = w[here + 2 * row * (y + 1) + x // LANES * U + c * LANES + x % LANES]
    return work


@functools.cache
def _source_digest() -> int:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return int(hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:15], 16)


def _entry(digest: int, cache: bool) -> Callable[..., float]:
    @njit(nogil=True, cache=cache)
    def flow_pair(
        w,
        frames,
        known,
        swapped,
        out,
        sizes,
        at,
        tau,
        lambda_,
        theta,
        epsilon,
        shrink,
        settled,
        warps,
        outer,
        inner,
        median,
    ):
        # numba's cache checks only this file; a variable of the closure is part of its key, so that an edit of any
        # kernel's file recompiles.
        if digest < 0:
            return 0.0
        return _flow_pair(
            w,
            frames,
            known,
            swapped,
            out,
            sizes,
            at,
            tau,
            lambda_,
            theta,
            epsilon,
            shrink,
            settled,
            warps,
            outer,
            inner,
            median,
        )

    flow_pair.compile(_ARGUMENTS)
    flow_pair.disable_compile()
    return flow_pair


@functools.cache
def _compiled() -> Callable[..., float]:
    start = time.perf_counter()
    try:
        entry = _entry(_source_digest(), cache=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        # No folder to write to (numba says so with a RuntimeError), a full disk, a damaged file of an earlier process.
        log.info("compiled code cannot be kept (%s); this process compiles its own", error)
        entry = _entry(_source_digest(), cache=False)
    log.debug("TV-L1 was ready after %.1f s", time.perf_counter() - start)
    return entry


def flow_pair_kernel() -> Callable[..., float]:
    """The compiled function: from numba's cache, or compiled now (seconds). Safe to call from several threads."""
    with _compiling:
        return _compiled()
