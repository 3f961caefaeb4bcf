"""Numbers of one set of predictions. Plain numpy; scikit-learn is the oracle in the tests."""

# Shape suffixes: V videos, N classes.

from __future__ import annotations

import numpy as np


def topk_accuracy(probabilities_VN: np.ndarray, labels_V: np.ndarray, k: int) -> float:
    """Share of videos whose label is among the k most probable classes, in [0, 1].

    A tie counts as if the label came last among its equals, so that a constant prediction earns nothing by its order.
    """
    own = probabilities_VN[np.arange(len(labels_V)), labels_V]
    at_least_as_likely = (probabilities_VN >= own[:, None]).sum(1)  # counts the label itself
    return float((at_least_as_likely <= k).mean())


def confusion_matrix(probabilities_VN: np.ndarray, labels_V: np.ndarray) -> np.ndarray:
    """(N, N) int64: row true class, column predicted class."""
    num_classes = probabilities_VN.shape[1]
    flat = labels_V * num_classes + probabilities_VN.argmax(1)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_recall(confusion_NN: np.ndarray) -> list[float | None]:
    """Share of each class's videos that were recognised; None for a class without videos."""
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(confusion_NN)]
