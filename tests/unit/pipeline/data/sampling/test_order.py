"""The order of samples is a permutation cut into equal parts, whatever the batch, the ranks and the stops."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sampling.order import FILLER, epoch_order, global_batch, num_steps, rank_slice, sample_rng
from pipeline.errors import ConfigError


def consumed(order: np.ndarray, batch: int, world: int, steps: range) -> list[int]:
    """Every index that all ranks see in these steps, fillers included."""
    return [
        int(i)
        for step in steps
        for rank in range(world)
        for i in rank_slice(global_batch(order, step, batch), rank, world)
    ]


@settings(max_examples=100, deadline=None)
@given(
    num_samples=st.integers(1, 90),
    per_rank=st.integers(1, 5),
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_each_sample_once_however_often_the_ranks_change(
    num_samples, per_rank, worlds, seed, epoch, shuffle, data
) -> None:
    batch = 12 * per_rank
    steps = num_steps(num_samples, batch)
    cuts = sorted(data.draw(st.lists(st.integers(0, steps), min_size=len(worlds) - 1, max_size=len(worlds) - 1)))
    seen = []
    for world, begin, end in zip(worlds, [0, *cuts], [*cuts, steps], strict=True):  # a resumed run recomputes the order
        seen += consumed(epoch_order(num_samples, seed, epoch, shuffle), batch, world, range(begin, end))
    assert sorted(i for i in seen if i != FILLER) == list(range(num_samples))
    assert len(seen) == steps * batch
    full = seen[: (steps - 1) * batch]
    assert FILLER not in full, "fillers belong to the last batch"
    assert all(i == FILLER for i in seen[num_samples:])


@settings(max_examples=50, deadline=None)
@given(num_samples=st.integers(1, 60), per_rank=st.integers(1, 4), world=st.integers(1, 6))
def test_global_batches_do_not_depend_on_the_ranks(num_samples, per_rank, world) -> None:
    order, batch = epoch_order(num_samples, 3, 1, True), per_rank * world
    for step in range(num_steps(num_samples, batch)):
        assert consumed(order, batch, world, range(step, step + 1)) == consumed(order, batch, 1, range(step, step + 1))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    base = epoch_order(200, 7, 3, True)
    np.testing.assert_array_equal(base, epoch_order(200, 7, 3, True))
    for other in (epoch_order(200, 7, 4, True), epoch_order(200, 8, 3, True)):
        assert (base == other).mean() < 0.1
    np.testing.assert_array_equal(epoch_order(5, 7, 3, False), range(5))


def test_first_places_are_uniform() -> None:
    first = [int(epoch_order(8, 0, epoch, True)[0]) for epoch in range(1600)]
    counts = np.bincount(first, minlength=8)
    chi2 = float(((counts - 200.0) ** 2 / 200.0).sum())
    assert chi2 < 24.3, f"chi-square {chi2:.1f} over 7 degrees of freedom (0.1 %)"


def test_order_is_what_earlier_versions_wrote() -> None:
    # A checkpoint holds (epoch, step) alone: if these numbers change, resumed runs see other samples.
    assert epoch_order(10, 0, 0, True).tolist() == [6, 7, 9, 1, 8, 4, 3, 0, 5, 2]
    assert sample_rng(0, 0, "clip").integers(0, 1000, 4).tolist() == [614, 576, 823, 12]


def test_batch_that_does_not_divide_names_what_would() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size = 10: does not divide by 4 ranks: use 8 or 12") as caught:
        rank_slice(np.arange(10), 0, 4)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match=r"use 4$"):
        rank_slice(np.arange(3), 0, 4)


def test_a_step_outside_the_epoch_is_refused() -> None:
    order = epoch_order(10, 0, 0, True)
    with pytest.raises(IndexError, match=r"step 3 is outside 0\.\.2"):
        global_batch(order, 3, 4)


def test_sample_numbers_depend_on_each_part() -> None:
    draws = {(s, e, k): sample_rng(s, e, k).random() for s in (0, 1) for e in (0, 1) for k in ("a", "b")}
    assert len(set(draws.values())) == 8
    assert sample_rng(1, 11, "a").random() != sample_rng(11, 1, "a").random()
