"""Metrics of one set of predictions. Plain numpy; scikit-learn is the oracle in the tests."""

# Shape suffixes: V videos, N classes.

from __future__ import annotations

import numpy as np


def topk_accuracy(probabilities_VN: np.ndarray, labels_V: np.ndarray, k: int) -> float:
    """Share of videos whose label is among the k most probable classes, in [0, 1].

    In a tie the label ranks last, so that a constant prediction gains nothing from the order of classes. A video
    without an answer (all 0, or NaN) is wrong for every ``k``.
    """
    own = probabilities_VN[np.arange(len(labels_V)), labels_V]
    at_least_as_likely = (~(probabilities_VN < own[:, None])).sum(1)  # counts the label itself
    answered = np.nan_to_num(probabilities_VN).any(1)
    return float(((at_least_as_likely <= k) & answered).mean())


def right_videos(probabilities_VN: np.ndarray, labels_V: np.ndarray) -> np.ndarray:
    """(V,) bool: whether the label is the most probable class, alone. Its mean is ``topk_accuracy`` with ``k`` 1."""
    own_V = probabilities_VN[np.arange(len(labels_V)), labels_V]
    others = (~(probabilities_VN < own_V[:, None])).sum(1) - 1
    return (others == 0) & np.nan_to_num(probabilities_VN).any(1)


def log_loss(probabilities_VN: np.ndarray, labels_V: np.ndarray) -> float:
    """Mean of -log of the probability of the right class, in nats; a probability below 1e-7 counts as that."""
    own_V = probabilities_VN[np.arange(len(labels_V)), labels_V]
    return float(-np.log(np.maximum(np.nan_to_num(own_V), 1e-7)).mean())


def confusion_matrix(probabilities_VN: np.ndarray, labels_V: np.ndarray) -> np.ndarray:
    """(N, N) int64: row true class, column predicted class.

    Ties are resolved as in ``topk_accuracy``, against the label, so the diagonal adds up to the top-1 accuracy.
    """
    num_classes = probabilities_VN.shape[1]
    videos = np.arange(len(labels_V))
    others_VN = probabilities_VN.copy()
    others_VN[videos, labels_V] = -np.inf
    best_other_V = others_VN.argmax(1)
    right_V = probabilities_VN[videos, labels_V] > others_VN[videos, best_other_V]
    flat = labels_V * num_classes + np.where(right_V, labels_V, best_other_V)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_recall(confusion_NN: np.ndarray) -> list[float | None]:
    """Recall of each class, in [0, 1]; None for a class without videos."""
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(confusion_NN)]


def mean_class_accuracy(confusion_NN: np.ndarray) -> float:
    """Mean of the recalls of all classes with videos, in [0, 1]: large classes count no more than small ones."""
    return float(np.mean([recall for recall in per_class_recall(confusion_NN) if recall is not None]))
