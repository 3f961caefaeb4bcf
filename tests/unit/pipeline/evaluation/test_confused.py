"""Pairs, order and groups of classes on matrices of which the answer is known, and mistakes against plain loops."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.evaluation.confused import class_groups, class_order, confused_pairs, mistakes
from pipeline.evaluation.metrics import confusion_matrix, right_videos, topk_accuracy
from pipeline.evaluation.predictions import Predictions


def blocks(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of classes that are confused within their block alone, in a shuffled order, and the block of each."""
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(block)
    counts = np.where(block[:, None] == block, rng.integers(8, 13, (len(block), len(block))), 0)
    np.fill_diagonal(counts, 60)
    return counts, block


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_a_block_are_neighbours_and_a_group(seed: int) -> None:
    counts, block = blocks([4, 1, 3, 2, 1, 5], seed)
    order = class_order(counts)
    assert sorted(order) == list(range(16))
    assert int((np.diff(block[order]) != 0).sum()) == 5  # each block is one stretch
    expected = {frozenset(np.flatnonzero(block == b).tolist()) for b in (0, 2, 3, 5)}
    groups = class_groups(counts)
    assert {frozenset(group) for group in groups} == expected
    places = {label: place for place, label in enumerate(order)}
    for group in groups:
        assert [places[label] for label in group] == list(range(places[group[0]], places[group[0]] + len(group)))


def test_a_few_mistakes_make_no_group_and_a_class_without_videos_is_in_none() -> None:
    counts = np.diag([100, 100, 100, 0])
    counts[0, 1] = counts[1, 0] = 4
    assert class_groups(counts) == []
    counts[0, 1] = counts[1, 0] = 8
    assert [sorted(group) for group in class_groups(counts)] == [[0, 1]]
    assert class_order(np.diag([3, 4])) == [0, 1]
    assert class_groups(np.array([[5]])) == []


def test_four_hundred_classes_are_ordered_in_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 400
    logits = rng.normal(size=(20_000, 400)) + 4 * np.eye(400)[labels]
    start = time.process_time()
    assert sorted(class_order(confusion_matrix(logits, labels))) == list(range(400))
    assert time.process_time() - start < 20


def test_pairs_are_those_of_a_loop() -> None:
    counts = np.random.default_rng(3).integers(0, 9, (7, 7))
    totals = {(i, j): int(counts[i, j] + counts[j, i]) for i in range(7) for j in range(i)}
    pairs = confused_pairs(counts, most=100)
    assert [pair.total for pair in pairs] == sorted((n for n in totals.values() if n), reverse=True)
    for pair in pairs:
        assert (pair.first_as_second, pair.second_as_first) == (
            counts[pair.first, pair.second],
            counts[pair.second, pair.first],
        )
        assert pair.first_as_second >= pair.second_as_first
    assert confused_pairs(counts, most=3) == pairs[:3]
    assert confused_pairs(np.diag([1, 2, 3]), most=3) == []


def test_mistakes_are_the_wrong_videos_by_confidence_without_damaged_ones() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, 80)
    p = rng.dirichlet(np.ones(5), 80).astype(np.float32)
    p[3] = p[40] = 0
    p[7] = [0.5, 0.5, 0, 0, 0]
    labels[7] = 1
    predictions = Predictions(tuple(f"v{i:02}" for i in range(80)), labels, {"fused": p})
    found = mistakes(predictions)
    wrong = {
        f"v{i:02}"
        for i in range(80)
        if p[i].any() and any(p[i, c] >= p[i, labels[i]] for c in range(5) if c != labels[i])
    }
    assert {mistake.key for mistake in found} == wrong
    assert "v07" in wrong
    assert [m.probability for m in found] == sorted((m.probability for m in found), reverse=True)
    for mistake in found:
        row = int(mistake.key[1:])
        assert mistake.predicted != mistake.label == labels[row]
        assert mistake.probability == max(p[row, c] for c in range(5) if c != mistake.label) >= mistake.own
    assert right_videos(p, labels).mean() == topk_accuracy(p, labels, 1)
