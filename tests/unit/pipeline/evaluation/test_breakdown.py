"""Accuracy of groups of videos against pandas' quantile cuts, and what is split and what is not."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.breakdown import accuracy_by
from pipeline.evaluation.intervals import wilson_interval


def test_groups_of_different_values_are_those_of_pandas() -> None:
    rng = np.random.default_rng(0)
    values, right = rng.permutation(203).astype(float), rng.random(203) < 0.6
    expected = pd.Series(right).groupby(pd.cut(values, np.array([0, 40, 80, 121, 161, 203]) - 0.5, labels=False))
    groups = accuracy_by(values, right)
    assert [group.num_videos for group in groups] == expected.count().tolist()
    assert [group.accuracy for group in groups] == pytest.approx(expected.mean().tolist())
    assert groups[0].interval == wilson_interval(int(right[values < 40].sum()), 40)
    assert [(group.low, group.high) for group in groups][::4] == [(0, 39), (161, 202)]


def test_equal_values_are_never_split_and_every_video_with_a_value_is_in_one_group() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        values = rng.choice([1.0, 2.0, 2.5, 7.0, np.nan], 60, p=[0.5, 0.1, 0.1, 0.1, 0.2])
        right = rng.random(60) < 0.5
        groups = accuracy_by(values, right)
        assert sum(group.num_videos for group in groups) == (~np.isnan(values)).sum()
        assert all(first.high < second.low for first, second in itertools.pairwise(groups))
        assert sum(g.accuracy * g.num_videos for g in groups) == pytest.approx(right[~np.isnan(values)].sum())


def test_one_value_is_one_group_and_none_is_none() -> None:
    (group,) = accuracy_by(np.full(9, 3.0), np.arange(9) < 6)
    assert (group.low, group.high, group.num_videos, group.accuracy) == (3, 3, 9, 6 / 9)
    assert accuracy_by(np.full(4, np.nan), np.ones(4, bool)) == ()
