"""Depth against a simulated storage and decoder, where Little's law gives the answer."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from pipeline.data.fetch.depth import Depth


def simulate(
    depth: Depth, *, get_s: float, spread: float, batch: int, decode_s: float, batches: int, seed: int = 0
) -> tuple[list[int], float]:
    """An exact event simulation: ``depth.value`` servers, a decoder that takes ``batch`` samples and then works for
    ``decode_s``.

    Returns:
        The depth after each batch, and the share of the last half of the time that the decoder waited.
    """
    rng = random.Random(seed)
    now = half_s = half_wait_s = 0.0
    flying: list[tuple[float, int, float]] = []
    queue: list[int] = []
    ready: set[int] = set()
    values: list[int] = []
    posted = taken = 0

    def advance(until: float) -> None:
        nonlocal now
        while flying and flying[0][0] <= until:
            now, number, took = heapq.heappop(flying)
            ready.add(number)
            depth.arrived(took)
            begin()
        now = until

    def begin() -> None:
        while queue and len(flying) < depth.value:
            took = get_s * rng.uniform(1 - spread, 1 + spread)
            heapq.heappush(flying, (now + took, queue.pop(0), took))

    for step in range(batches):
        for _ in range(batch):
            while posted - taken < batch + 2 * depth.value:
                queue.append(posted)
                posted += 1
            begin()
            began, queued = now, len(queue)
            while taken not in ready:
                advance(flying[0][0])
            ready.remove(taken)
            taken += 1
            depth.taken(now, now - began, queued)
            begin()
            if step >= batches // 2:
                half_wait_s += now - began
        advance(now + decode_s)
        values.append(depth.value)
        if step == batches // 2 - 1:
            half_s = now
    return values, half_wait_s / (now - half_s)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize(("get_s", "rate"), [(0.05, 100), (0.05, 400), (0.2, 60), (0.01, 50)])
def test_the_depth_is_littles_law_and_the_decoder_does_not_wait(batch: int, get_s: float, rate: float) -> None:
    depth = Depth(64, batch)
    values, waited = simulate(
        depth, get_s=get_s, spread=0.5, batch=batch, decode_s=batch / rate, batches=4 + 1500 // batch
    )
    need = rate * get_s
    settled = values[len(values) // 2 :]
    assert waited < 0.03
    assert sum(settled) / len(settled) <= 2 * need + 4, f"Little's law says {need:g}"
    assert min(settled) >= math.floor(need)


def test_it_grows_to_the_bound_where_even_that_is_too_little_and_comes_back() -> None:
    depth = Depth(16, 8)
    assert depth.value == 4, "starts small"
    values, waited = simulate(depth, get_s=0.1, spread=0.2, batch=8, decode_s=0.0, batches=100)
    assert values[4] == 16, "doubles with each round"
    assert values[-1] == 16
    assert waited > 0.9
    values, waited = simulate(depth, get_s=0.1, spread=0.2, batch=8, decode_s=1.6, batches=100)
    assert values[-1] <= 3, "5 samples a second, 0.1 s each: half a GET in flight"
    assert waited < 0.02


def test_waiting_for_one_slow_get_is_no_reason_to_grow() -> None:
    depth = Depth(16, 1)
    for i in range(50):
        depth.taken(float(i), 0.5, queued=0)
    assert depth.value == 4
    assert Depth(2, 1).value == 2
