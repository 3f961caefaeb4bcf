"""Whether probabilities mean what they say: expected calibration error and the reliability diagram behind it."""

# Shape suffixes: V videos, N classes.

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.common.typed import Count

NUM_BINS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bin:
    """Videos whose most probable class has a probability in a bin of width 1 / NUM_BINS."""

    num_videos: Count
    confidence: float
    """Mean of that probability, in [0, 1]; 0 in an empty bin."""
    accuracy: float
    """Share of them that are right, in [0, 1]; 0 in an empty bin."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one prediction over a split. Videos without an answer are left out."""

    ece: float
    """Expected calibration error, in [0, 1]: the mean over videos of |accuracy - confidence| of their bins (Guo et al.,
    On Calibration of Modern Neural Networks, equation 3).
    """
    bins: tuple[Bin, ...]
    """In ascending order of confidence: (0, 1/15], (1/15, 2/15], ..."""


def calibration(probabilities_VN: np.ndarray, labels_V: np.ndarray) -> Calibration:
    """Compare the probability of the most probable class with how often that class is right.

    Args:
        probabilities_VN: rows that sum to 1; a row of zeros is a video without an answer.
        labels_V: class indices.
    """
    answered_V = probabilities_VN.any(1)
    confidence_V = probabilities_VN.max(1)[answered_V]
    right_V = (probabilities_VN.argmax(1) == labels_V)[answered_V]
    # Bins are open below and closed above, so that a probability of 1 is in the last.
    place_V = np.clip(np.ceil(confidence_V * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(place_V, minlength=NUM_BINS)
    sums = (np.bincount(place_V, weights=values, minlength=NUM_BINS) for values in (confidence_V, right_V))
    confidences, accuracies = (total / np.maximum(counts, 1) for total in sums)
    ece = float((counts * np.abs(accuracies - confidences)).sum() / max(counts.sum(), 1))
    bins = tuple(
        Bin(num_videos=int(n), confidence=float(c), accuracy=float(a))
        for n, c, a in zip(counts, confidences, accuracies, strict=True)
    )
    return Calibration(ece=ece, bins=bins)
