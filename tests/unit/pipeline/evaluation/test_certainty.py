"""Intervals against SciPy's bootstrap, mean class accuracy against scikit-learn, calibration against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from pipeline.evaluation.calibration import NUM_BINS, calibration
from pipeline.evaluation.intervals import difference_interval, mean_class_interval, share_interval, wilson_interval
from pipeline.evaluation.metrics import confusion_matrix, mean_class_accuracy
from pipeline.evaluation.predictions import Predictions

NEAR = 0.01  # intervals of 10,000 draws of some hundred videos


def made(videos: int = 300, classes: int = 5, seed: int = 0) -> Predictions:
    """Two branches that are right more often than not, and classes of very different sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, videos, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    branches = {}
    for name in ("rgb", "flow"):
        scores = rng.normal(size=(videos, classes))
        scores[np.arange(videos), labels] += 1.5 - 0.4 * labels
        branches[name] = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)
    return Predictions(tuple(f"v{i}" for i in range(videos)), labels, branches)


def percentile_bootstrap(statistic, *samples: np.ndarray) -> tuple[float, float]:
    found = stats.bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def test_the_interval_of_a_share_is_that_of_a_bootstrap_over_videos() -> None:
    right = np.arange(250) < 190
    assert share_interval(190, 250) == pytest.approx(percentile_bootstrap(np.mean, right), abs=NEAR)
    assert share_interval(190, 250) == share_interval(190, 250)
    assert share_interval(40, 40) == (1.0, 1.0)
    assert share_interval(0, 40) == (0.0, 0.0)


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of 400 splits of 200 videos, each right with a probability of 0.7."""
    counts = np.random.default_rng(1).binomial(200, 0.7, 400)
    bounds = {int(count): share_interval(int(count), 200) for count in set(counts)}
    covered = np.mean([bounds[int(c)][0] <= 0.7 <= bounds[int(c)][1] for c in counts])
    assert 0.92 <= covered <= 0.98


def test_mean_class_accuracy_and_its_interval() -> None:
    predictions = made()
    labels, answers = predictions.labels, predictions.streams["fused"].argmax(1)
    confusion = confusion_matrix(predictions.streams["fused"], labels)
    assert mean_class_accuracy(confusion) == pytest.approx(balanced_accuracy_score(labels, answers))

    def of(truth: np.ndarray, said: np.ndarray) -> float:
        return float(np.mean([(said[truth == c] == c).mean() for c in np.unique(truth)]))

    assert mean_class_interval(confusion) == pytest.approx(percentile_bootstrap(of, labels, answers), abs=NEAR)


def test_a_class_without_videos_is_left_out() -> None:
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert mean_class_accuracy(confusion) == pytest.approx(0.85)
    assert mean_class_interval(confusion) == pytest.approx(mean_class_interval(confusion[:2, :2]), abs=2 * NEAR)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(2)
    first = rng.random(300) < 0.8
    second = np.where(rng.random(300) < 0.9, first, ~first)  # mostly the same videos
    wanted = percentile_bootstrap(lambda a, b: np.mean(a.astype(float) - b), first, second)
    assert difference_interval(first, second) == pytest.approx(wanted, abs=NEAR)
    assert difference_interval(first, first) == (0.0, 0.0)
    low, high = share_interval(int(first.sum()), 300)
    assert wanted[1] - wanted[0] < high - low, "videos that both have right say nothing about the difference"


def test_calibration_by_its_definition() -> None:
    predictions = made()
    p, labels = predictions.streams["fused"], predictions.labels
    found = calibration(p, labels)
    error, seen = 0.0, 0
    for number, bin_ in enumerate(found.bins):
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        inside = [v for v in range(len(labels)) if low < p[v].max() <= high]
        assert bin_.num_videos == len(inside)
        seen += len(inside)
        if inside:
            accuracy = np.mean([p[v].argmax() == labels[v] for v in inside])
            confidence = np.mean([p[v].max() for v in inside])
            assert (bin_.accuracy, bin_.confidence) == pytest.approx((accuracy, confidence))
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    assert seen == len(labels)
    assert found.ece == pytest.approx(error)


def test_a_certain_answer_is_in_the_last_bin_and_no_answer_in_none() -> None:
    p, labels = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([0, 0, 0])
    found = calibration(p, labels)
    assert [bin_.num_videos for bin_ in found.bins] == [0] * (NUM_BINS - 1) + [2]
    assert found.ece == 0.5
    assert calibration(np.zeros((2, 3)), np.array([0, 1])).ece == 0


def test_every_score_of_every_stream_lies_in_its_interval() -> None:
    predictions = made()
    scores, intervals = predictions.scores(), predictions.intervals()
    assert scores.keys() == intervals.keys() == {"rgb", "flow", "fused"}
    for stream, values in scores.items():
        assert values.keys() == intervals[stream].keys() == {"top1", "top5", "mean_class"}
        assert all(intervals[stream][name][0] <= value <= intervals[stream][name][1] for name, value in values.items())


@pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (3, 20), (399, 400)])
def test_wilsons_interval_solves_its_equation(count: int, total: int) -> None:
    """Its bounds p are where the share found is z standard errors of p away from p."""
    z, share = stats.norm.ppf(0.975), count / total
    for bound in wilson_interval(count, total):
        assert (share - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / total, abs=1e-12)
    low, high = wilson_interval(count, total)
    assert 0 <= low <= share <= high <= 1
    assert low < high
