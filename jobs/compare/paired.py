"""Two runs on the same videos: whether one is better than the other, or the videos are too few to say."""

# Shape suffix: V videos.

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jobs.compare.evaluated import Evaluated
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.ensemble import check_comparable
from pipeline.evaluation.intervals import Interval, difference_interval
from pipeline.evaluation.metrics import right_videos
from pipeline.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """The first run's fused top-1 minus the second's, over the same videos."""

    first: str
    second: str
    difference: float
    """In [-1, 1]."""
    interval: Interval
    """Paired bootstrap over videos."""
    only_first: int
    only_second: int
    """Videos that one run has right and the other wrong."""
    p: float
    """McNemar's test, exact and two-sided: the probability of so uneven a split if both were equally good."""
    videos: int

    @property
    def verdict(self) -> str:
        """Which is better, at 5 %."""
        if self.p >= 0.05:
            return "undecided"
        return f"{self.first if self.difference > 0 else self.second} is better"


def compare_two(runs: Sequence[Evaluated]) -> Paired:
    """Compare two runs video by video.

    Raises:
        UserError: not two, evaluated on other videos, classes or views, or without stored predictions.
    """
    if len(runs) != 2:
        raise ConfigError("runs", [run.name for run in runs], "a paired comparison takes two")
    first, second = runs
    check_comparable({run.name: run.report for run in runs})
    right = [_right(run.predictions()) for run in runs]
    if right[0].keys() != right[1].keys():
        raise UserError(f"{first.name} and {second.name} were evaluated on different videos: evaluate both --again")
    keys = sorted(right[0])
    ours_V, theirs_V = (np.array([found[key] for key in keys]) for found in right)
    only_first, only_second = int((ours_V & ~theirs_V).sum()), int((theirs_V & ~ours_V).sum())
    return Paired(
        first=first.name,
        second=second.name,
        difference=(only_first - only_second) / len(keys),
        interval=difference_interval(ours_V, theirs_V),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar_p(only_first, only_second),
        videos=len(keys),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p value of McNemar's test: videos on which both agree say nothing, and each other one is a coin
    toss if both runs are equally good.
    """
    total, few = only_first + only_second, min(only_first, only_second)
    ways, sum_of_ways = 1, 0
    for k in range(few + 1):
        sum_of_ways += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * sum_of_ways / 2**total)


def _right(predictions: Predictions) -> dict[str, bool]:
    right_V = right_videos(predictions.streams["fused"], predictions.labels)
    return dict(zip(predictions.keys, right_V.tolist(), strict=True))
