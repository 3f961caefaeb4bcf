"""What a model takes for what: pairs and groups of classes, and the videos that show it."""

# Shape suffix: N classes.

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from pipeline.evaluation.metrics import right_videos
from pipeline.evaluation.predictions import Predictions

_TOGETHER = 0.05  # mean share of their videos that classes of a group give to each other, at least


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """Two classes, by index; ``first`` is the one whose videos are more often taken for the other's."""

    first: int
    second: int
    first_as_second: int
    """Videos of ``first`` that are taken for ``second``."""
    second_as_first: int

    @property
    def total(self) -> int:
        return self.first_as_second + self.second_as_first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """A video that is taken for another class."""

    key: str
    label: int
    predicted: int
    probability: float
    """Of the predicted class, fused, in [0, 1]."""
    own: float
    """Of the right class."""


def confused_pairs(confusion_NN: np.ndarray, most: int) -> list[ConfusedPair]:
    """The pairs of classes with the most mistakes in both directions together, most first; at most ``most``."""
    both_NN = confusion_NN + confusion_NN.T
    rows, columns = np.triu_indices(len(confusion_NN), k=1)
    totals = both_NN[rows, columns]
    order = np.argsort(-totals, kind="stable")[:most]
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if not both_NN[row, column]:
            break
        first, second = (row, column) if confusion_NN[row, column] >= confusion_NN[column, row] else (column, row)
        pairs.append(
            ConfusedPair(
                first=first,
                second=second,
                first_as_second=int(confusion_NN[first, second]),
                second_as_first=int(confusion_NN[second, first]),
            )
        )
    return pairs


def class_order(confusion_NN: np.ndarray) -> list[int]:
    """Indices of the classes so that those which are confused with each other are neighbours.

    Leaves of a hierarchical clustering (average linkage) in the order that makes neighbours most alike.
    """
    if len(confusion_NN) < 3:
        return list(range(len(confusion_NN)))
    distances = _distances(confusion_NN)
    tree = hierarchy.linkage(distances, method="average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()


def class_groups(confusion_NN: np.ndarray) -> list[list[int]]:
    """Groups of two or more classes whose videos are taken for each other's, in the order of ``class_order``.

    Two classes of a group give each other 5 % of their videos or more, in the mean over its pairs.
    """
    if len(confusion_NN) < 2:
        return []
    tree = hierarchy.linkage(_distances(confusion_NN), method="average", optimal_ordering=True)
    groups_N = hierarchy.fcluster(tree, 1 - _TOGETHER, criterion="distance")
    found: dict[int, list[int]] = {}
    for index in class_order(confusion_NN):
        found.setdefault(int(groups_N[index]), []).append(index)
    return [group for group in found.values() if len(group) > 1]


def _distances(confusion_NN: np.ndarray) -> np.ndarray:
    """Of each pair: 1 less the mean share of their videos that two classes give to each other."""
    shares_NN = confusion_NN / np.maximum(confusion_NN.sum(1, keepdims=True), 1)
    distances_NN = 1 - (shares_NN + shares_NN.T) / 2
    np.fill_diagonal(distances_NN, 0)
    return squareform(distances_NN, checks=False)


def mistakes(predictions: Predictions) -> list[Mistake]:
    """The videos whose fused prediction is wrong, the most confident one first. Videos that could not be read are left
    out.
    """
    fused_VN, labels_V = predictions.streams["fused"], predictions.labels
    wrong_V = ~right_videos(fused_VN, labels_V) & fused_VN.any(1)
    found = []
    for row in np.flatnonzero(wrong_V).tolist():
        others_N = fused_VN[row].copy()
        others_N[labels_V[row]] = -np.inf
        predicted = int(others_N.argmax())
        found.append(
            Mistake(
                key=predictions.keys[row],
                label=int(labels_V[row]),
                predicted=predicted,
                probability=float(fused_VN[row, predicted]),
                own=float(fused_VN[row, labels_V[row]]),
            )
        )
    return sorted(found, key=lambda mistake: (-mistake.probability, mistake.key))
