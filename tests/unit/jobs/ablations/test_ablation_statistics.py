"""Intervals, tests and corrections of the ablations against SciPy, closed forms and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from jobs.ablations.statistics import bootstrap_interval, has_learned, holm, sign_flip_p, units_needed


def test_interval_over_units_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.1, 10)
    low, high = bootstrap_interval(values[:, None], crossed=False)
    wanted = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.003)


def test_crossed_interval_has_the_variance_of_units_and_videos() -> None:
    """With additive effects, var = s_unit^2 / U + s_video^2 / V: the interval is a normal's with this variance."""
    rng = np.random.default_rng(0)
    units, videos = rng.normal(0, 0.3, (40, 1)), rng.normal(0, 2.0, (1, 50))
    values = 0.4 + units + videos
    low, high = bootstrap_interval(values, crossed=True)
    sd = np.sqrt(units.var() / 40 + videos.var() / 50)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * sd, values.mean() + 1.96 * sd), abs=0.05)
    narrow = bootstrap_interval(values, crossed=False)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * units.std() / np.sqrt(40), rel=0.1)


def test_interval_without_variation_is_a_point() -> None:
    assert bootstrap_interval(np.ones((5, 7)), crossed=True) == pytest.approx((1.0, 1.0))


def test_sign_flips_are_enumerated() -> None:
    values = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.02, 0.4])
    means = [np.mean(np.array(signs) * values) for signs in itertools.product((-1, 1), repeat=len(values))]
    wanted = np.mean([abs(m) >= abs(values.mean()) - 1e-12 for m in means])
    assert sign_flip_p(values.tolist()) == pytest.approx(wanted)
    assert sign_flip_p([0.1] * 5) == pytest.approx(2 / 2**5)  # the least that five seeds can reach
    assert sign_flip_p([0.0] * 8) == 1.0
    assert sign_flip_p([0.5]) == 1.0


def test_sign_flip_test_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    p_values = [sign_flip_p(rng.normal(0, 1, 8).tolist()) for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_units_needed_have_the_power_that_they_promise() -> None:
    """A paired t test with that many units finds the difference in about four of five experiments."""
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 1, 30)
    sample = 0.35 + (sample - sample.mean()) / sample.std(ddof=1)  # mean 0.35, standard deviation 1
    needed = units_needed(sample.tolist())
    assert needed == 65  # ((1.960 + 0.842) / 0.35)^2 = 64.07
    found = [stats.ttest_1samp(rng.normal(0.35, 1, needed), 0).pvalue < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert units_needed([1.0, 1.0, 1.1]) == 6  # fewer cannot reach 0.05 in the sign-flip test
    assert units_needed([0.1]) is None
    assert units_needed([0.1, -0.1]) is None


def test_learned_is_a_binomial_test_at_one_per_cent() -> None:
    least = next(k for k in range(201) if stats.binom.sf(k - 1, 200, 0.5) < 0.01)
    assert [has_learned(k, 200, 0.5) for k in (least - 1, least)] == [False, True]
