"""Where a model fails: accuracy of groups of videos that are alike in one respect, such as their length."""

# Shape suffix: V videos.

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.evaluation.intervals import Interval, wilson_interval

NUM_GROUPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Videos whose value is in ``low`` to ``high``, both included."""

    low: float
    high: float
    num_videos: int
    accuracy: float
    """Share of them that is right, in [0, 1]."""
    interval: Interval
    """Wilson's, 95 %."""


def accuracy_by(values_V: np.ndarray, right_V: np.ndarray, num_groups: int = NUM_GROUPS) -> tuple[Group, ...]:
    """Split the videos by a value into groups of about equal size, and score each.

    Args:
        values_V: (V,) float; NaN where it is not known, such a video is in no group.
        right_V: (V,) bool.
        num_groups: at most; fewer where many videos have the same value, which are never split.

    Returns:
        groups by rising value; one where all values are equal, none where none is known.
    """
    known_V = ~np.isnan(values_V)
    values_V, right_V = values_V[known_V], right_V[known_V]
    if not len(values_V):
        return ()
    edges = np.unique(np.quantile(values_V, np.linspace(0, 1, num_groups + 1), method="lower"))
    place_V = np.searchsorted(edges[1:-1], values_V, side="right")
    groups = []
    for place in np.unique(place_V):
        inside_V = place_V == place
        right, total = int(right_V[inside_V].sum()), int(inside_V.sum())
        groups.append(
            Group(
                low=float(values_V[inside_V].min()),
                high=float(values_V[inside_V].max()),
                num_videos=total,
                accuracy=right / total,
                interval=wilson_interval(right, total),
            )
        )
    return tuple(groups)
