"""Statistics of ``jobs.ablations``: bootstrap intervals, exact paired tests, Holm's correction, power.

A *unit* is a seed, or a fold of a leave-one-out evaluation. All units of a variant are paired with the same units of
the others: they share the order of samples, the augmentation and the test videos.

SciPy is of the extra "bench": ``jobs.ablations`` refuses to start without it.
"""

# Shape suffixes: U units, V test videos, R resamples.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, permutation_test

CONFIDENCE = 0.95
POWER = 0.8
LEARNS = 0.01
"""Greatest probability with which guessing reaches the accuracy of a network that is said to have learned."""
_RESAMPLES = 10_000
_MOST_EXACT = 14  # units: 2^14 sign patterns
LEAST_UNITS = 6
"""With fewer, a sign-flip test cannot reach 0.05 (2 / 2^5 = 0.0625)."""


def bootstrap_interval(values_UV: np.ndarray, *, crossed: bool) -> tuple[float, float]:
    """Percentile interval of 95 % of the mean.

    Args:
        values_UV: (U, V), for example right (1) or wrong (0) for each unit and test video, or the difference of two
            variants: a paired bootstrap.
        crossed: whether all units have the same test videos. Then units and videos are both drawn anew, each with
            replacement, and the interval covers other seeds and other test videos. Else, as with folds, units alone
            are.
    """
    units, videos = values_UV.shape
    rng = np.random.default_rng(0)
    unit_weights_RU = rng.multinomial(units, np.full(units, 1 / units), _RESAMPLES) / units
    per_video_RV = unit_weights_RU @ values_UV
    if crossed:
        video_weights_RV = rng.multinomial(videos, np.full(videos, 1 / videos), _RESAMPLES) / videos
        means_R = (per_video_RV * video_weights_RV).sum(1)
    else:
        means_R = per_video_RV.mean(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means_R, [tail, 100 - tail])
    return float(low), float(high)


def sign_flip_p(differences_U: Sequence[float]) -> float:
    """Two-sided p value of the mean paired difference: the share of all 2^U sign patterns with a mean at least as far
    from zero; of 100,000 drawn patterns with more than 14 units.

    It assumes nothing but that under the null hypothesis both signs of a difference are equally likely.
    """
    if len(differences_U) < 2 or not np.any(differences_U):
        return 1.0
    most: Any = np.inf if len(differences_U) <= _MOST_EXACT else 100_000
    found = permutation_test(
        (np.asarray(differences_U),),
        np.mean,
        permutation_type="samples",
        n_resamples=most,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm, 1979), in the order given: each may be compared with 0.05."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def units_needed(differences_U: Sequence[float]) -> int | None:
    """How many units would show the mean difference that was found, at 5 % and with a power of 80 %, in the normal
    approximation ((z_0.975 + z_0.8) s / d)^2; at least six. None where the mean is zero or there is one unit.
    """
    if len(differences_U) < 2 or (mean := float(np.mean(differences_U))) == 0:
        return None
    z = norm.ppf(0.5 + CONFIDENCE / 2) + norm.ppf(POWER)
    return max(LEAST_UNITS, math.ceil((z * float(np.std(differences_U, ddof=1)) / mean) ** 2))


def has_learned(correct: int, videos: int, chance: float) -> bool:
    """Whether guessing would get as many right with a probability below ``LEARNS`` (one-sided binomial test)."""
    return bool(binomtest(correct, videos, chance, alternative="greater").pvalue < LEARNS)
