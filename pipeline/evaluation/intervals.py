"""How sure a score is: bootstrap intervals over the videos of a split.

A bootstrap draws as many videos as there are, with replacement, and scores each draw. A score that depends on counts
alone, such as top-1, needs no videos for it: the counts of a draw are multinomial, with the shares that were found as
probabilities. Drawing those gives the same distribution at a cost that does not grow with the videos.

The intervals cover other videos of the same kind. They do not cover another training of the same network: seeds do.
"""

# Shape suffixes: N classes, D draws, C kinds of outcome.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
DRAWS = 10_000
_SEED = 0  # the same predictions give the same interval

Interval = tuple[float, float]
"""Lower and upper bound."""


def share_interval(count: int, total: int) -> Interval:
    """Interval of a share, in [0, 1].

    Args:
        count: videos that count, such as those whose label is among the five most probable classes.
        total: all videos, at least 1.
    """
    return _percentiles(np.random.default_rng(_SEED).binomial(total, count / total, DRAWS) / total)


def wilson_interval(count: int, total: int) -> Interval:
    """Interval of a share of few videos, such as those of one class, in [0, 1]: where all are right a bootstrap would
    draw nothing else, and say that it is certain.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    found = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def mean_of_shares_interval(counts: Sequence[tuple[int, int]]) -> Interval:
    """Interval of the mean of several shares, such as the top-1 of a data set's three splits; each split is drawn anew.

    Args:
        counts: (count, total) of each share.
    """
    rng = np.random.default_rng(_SEED)
    return _percentiles(np.mean([rng.binomial(total, count / total, DRAWS) / total for count, total in counts], axis=0))


def mean_class_interval(confusion_NN: np.ndarray) -> Interval:
    """Interval of the mean class accuracy, in [0, 1]. A draw without videos of a class is scored without that class."""
    right_N, all_N = np.diag(confusion_NN), confusion_NN.sum(1)
    cells = np.concatenate([right_N, all_N - right_N])
    drawn_DC = np.random.default_rng(_SEED).multinomial(cells.sum(), cells / cells.sum(), DRAWS)
    hits_DN, misses_DN = np.split(drawn_DC, 2, axis=1)
    totals_DN = hits_DN + misses_DN
    recalls_DN = hits_DN / np.maximum(totals_DN, 1)
    return _percentiles(recalls_DN.sum(1) / (totals_DN > 0).sum(1))


def difference_interval(first_V: np.ndarray, second_V: np.ndarray) -> Interval:
    """Interval of the share of the first minus that of the second, over the same videos: a paired bootstrap.

    Args:
        first_V: (V,) bool, whether a model has a video right.
        second_V: the other model's, of the same videos in the same order.
    """
    only_first, only_second = int((first_V & ~second_V).sum()), int((second_V & ~first_V).sum())
    total = len(first_V)
    cells = np.array([only_first, only_second, total - only_first - only_second])
    drawn_DC = np.random.default_rng(_SEED).multinomial(total, cells / total, DRAWS)
    return _percentiles((drawn_DC[:, 0] - drawn_DC[:, 1]) / total)


def _percentiles(scores_D: np.ndarray) -> Interval:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(scores_D, [tail, 100 - tail])
    return float(low), float(high)
