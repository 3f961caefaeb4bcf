"""Stored predictions and their average. The oracle: numpy by hand, and scikit-learn's scores."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sk_confusion
from sklearn.metrics import top_k_accuracy_score

from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.ensemble import Net, average, check_comparable
from pipeline.evaluation.metrics import confusion_matrix, topk_accuracy
from pipeline.evaluation.predictions import Predictions, read_predictions, write_predictions
from pipeline.evaluation.report import EnsembleInput, EvalReport

V, N = 120, 9
KEYS = tuple(f"video-{i:03}" for i in range(V))
LABELS = np.random.default_rng(7).integers(0, N, V)


def made(seed: int, *branches: str, order: np.ndarray | None = None) -> Predictions:
    """Probabilities that lean to the label, rows in any order."""
    rng = np.random.default_rng(seed)
    whole = {b: rng.dirichlet(np.ones(N), V) * 0.6 + 0.4 * np.eye(N)[LABELS] * rng.random((V, 1)) for b in branches}
    rows = np.arange(V) if order is None else order
    return Predictions(
        tuple(KEYS[i] for i in rows),
        LABELS[rows],
        {b: (p / p.sum(1, keepdims=True)).astype(np.float32)[rows] for b, p in whole.items()},
    )


def test_an_ensemble_is_the_mean_of_its_nets_joined_by_key() -> None:
    order = np.random.default_rng(1).permutation(V)
    a, b, b_sorted = made(1, "rgb", "flow"), made(2, "rgb", order=order), made(2, "rgb")
    assert b.keys != a.keys
    both = average([Net("a:rgb", "rgb", a), Net("a:flow", "flow", a), Net("b:rgb", "rgb", b)])
    by_hand = (a.branches["rgb"].astype(float) + a.branches["flow"] + b_sorted.branches["rgb"]) / 3
    np.testing.assert_allclose(both.streams["fused"], by_hand, rtol=0, atol=1e-12)
    assert both.keys == KEYS
    assert (both.labels == LABELS).all()
    for stream, p in {"a:rgb": a.branches["rgb"], "b:rgb": b_sorted.branches["rgb"], "fused": by_hand}.items():
        for k in (1, 5):
            assert both.scores()[stream][f"top{k}"] == pytest.approx(
                top_k_accuracy_score(LABELS, p, k=k, labels=np.arange(N))
            )
    assert (both.confusion() == sk_confusion(LABELS, by_hand.argmax(1), labels=np.arange(N))).all()
    assert len({s["top1"] for s in both.scores().values()}) > 2, "all nets score the same: this test would see nothing"


def test_two_branches_of_one_run_are_its_own_fused_prediction() -> None:
    run = made(3, "rgb", "flow")
    both = average([Net("x", "rgb", run), Net("y", "flow", run)])
    assert (both.streams["fused"] == run.streams["fused"]).all()
    np.testing.assert_allclose(
        run.streams["fused"], (run.branches["rgb"].astype(float) + run.branches["flow"]) / 2, rtol=0, atol=1e-15
    )


def test_a_video_that_one_net_could_not_read_is_wrong_for_all() -> None:
    a, b = made(4, "rgb"), made(5, "rgb")
    sure = 2 * np.eye(N, dtype=np.float32)[LABELS]
    a, b = (dataclasses.replace(p, branches={"rgb": sure / 2}) for p in (a, b))
    b.branches["rgb"][17] = 0
    both = average([Net("a", "rgb", a), Net("b", "rgb", b)])
    assert both.num_damaged == 1
    fused = both.scores()["fused"]
    assert (fused["top1"], fused["top5"]) == ((V - 1) / V, (V - 1) / V)
    assert both.scores()["a"]["top1"] == 1
    assert np.trace(both.confusion()) == V - 1
    assert both.confusion().sum() == V


def test_no_answer_is_wrong_even_where_five_classes_are_all() -> None:
    labels = np.array([0, 0, 1])
    p = np.array([[0.0, 0, 0, 0], [np.nan] * 4, [0.1, 0.6, 0.2, 0.1]])
    assert topk_accuracy(p, labels, 1) == topk_accuracy(p, labels, 5) == pytest.approx(1 / 3)
    counts = confusion_matrix(p, labels)
    assert counts[0, 0] == 0
    assert counts.sum() == 3
    assert counts[1, 1] == 1


def test_ties_leave_the_diagonal_at_top_1() -> None:
    rng = np.random.default_rng(0)
    p, labels = rng.integers(0, 4, (500, 6)) / 4, rng.integers(0, 6, 500)
    assert np.trace(confusion_matrix(p, labels)) / 500 == topk_accuracy(p, labels, 1)


def test_stored_and_read_again(tmp_path: Path) -> None:
    run = made(6, "rgb", "diff-online")
    digest = write_predictions(run, tmp_path / "p.npz")
    data = (tmp_path / "p.npz").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    again = read_predictions(data, digest)
    assert again.keys == run.keys
    assert again.labels.dtype == np.int64
    assert (again.labels == run.labels).all()
    assert {name: p.dtype for name, p in again.branches.items()} == {"rgb": np.float32, "diff-online": np.float32}
    assert all((again.branches[name] == run.branches[name]).all() for name in run.branches)
    assert again.scores() == run.scores()
    with np.load(tmp_path / "p.npz", allow_pickle=False) as plain:  # as anybody reads it
        assert sorted(plain.files) == ["keys", "labels", "probabilities_diff-online", "probabilities_rgb"]
        assert plain["probabilities_rgb"].shape == (V, N)
    with pytest.raises(UserError, match="do not match the report's sha256"):
        read_predictions(data[:-1], digest)
    with pytest.raises(UserError, match="not a file of predictions"):
        read_predictions(b"text", hashlib.sha256(b"text").hexdigest())


def test_size_is_that_of_the_numbers(tmp_path: Path) -> None:
    videos, classes = 1000, 339
    big = Predictions(
        tuple(f"{i:096}" for i in range(videos)),
        np.zeros(videos, np.int64),
        {b: np.full((videos, classes), 1 / classes, np.float32) for b in ("rgb", "flow")},
    )
    write_predictions(big, tmp_path / "p.npz")
    numbers = 2 * videos * classes * 4
    assert numbers < (tmp_path / "p.npz").stat().st_size < 1.2 * numbers  # even with the longest keys there are


def test_nets_that_do_not_match_are_not_averaged() -> None:
    a, b = made(1, "rgb"), made(2, "rgb")
    with pytest.raises(ConfigError, match=r"members = \['a'\]: give two or more nets"):
        average([Net("a", "rgb", a)])
    with pytest.raises(ConfigError, match="name each net once"):
        average([Net("a", "rgb", a), Net("a", "rgb", b)])
    fewer = dataclasses.replace(b, keys=("other", *b.keys[1:]))
    with pytest.raises(
        ConfigError,
        match=r"keys = \['other', 'video-000'\]: a and b were evaluated on different videos \(2 are in only one\)",
    ):
        average([Net("a", "rgb", a), Net("b", "rgb", fewer)])
    labels = b.labels.copy()
    labels[5] = (labels[5] + 1) % N
    with pytest.raises(ConfigError, match=r"labels = \['video-005'\]: a and b have different labels for 1 videos"):
        average([Net("a", "rgb", a), Net("b", "rgb", dataclasses.replace(b, labels=labels))])


def report(**changes: object) -> EvalReport:
    base = EvalReport(
        run_id="r",
        model="m",
        modalities=("rgb", "flow"),
        dataset="d",
        manifest_digest="x" * 64,
        split="test",
        protocol="4x1",
        num_videos=4,
        num_damaged=0,
        classes=("a", "b"),
        scores={s: {"top1": 0.5, "top5": 1.0} for s in ("rgb", "flow", "fused")},
        per_class=(0.5, None),
        confusion=((1, 1), (0, 2)),
        checkpoint="c",
        code_version="v",
        seconds=1.0,
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"manifest_digest": "y" * 64},
            "manifest_digest = 'yyyyyyyyyyyy': that is B, but A has 'xxxxxxxxxxxx': average runs of one version",
        ),
        ({"split": "val"}, "split = 'val': that is B, but A has 'test': average evaluations of one split"),
        (
            {"protocol": "20x1"},
            "protocol = '20x1': that is B, but A has '4x1': evaluate all runs with the same --num-views",
        ),
        ({"classes": ("b", "a")}, "classes = '2 classes b, a, ...': that is B"),
    ],
)
def test_evaluations_that_cannot_be_compared(change: dict[str, object], text: str) -> None:
    check_comparable({"A": report(), "B": report(run_id="other", checkpoint="d")})
    with pytest.raises(ConfigError) as caught:
        check_comparable({"A": report(), "B": report(**change)})
    assert str(caught.value).startswith(text), str(caught.value)


def test_reports_of_ensembles_and_of_older_code() -> None:
    member = EnsembleInput(name="r:rgb", run="file:///r", branch="rgb", recipe="m", checkpoint="c", predictions="s")
    whole = report(members=(member,), predictions="abc")
    assert EvalReport.from_json(whole.to_json()) == whole
    assert whole.branches == ("r:rgb",)
    assert report().branches == ("rgb", "flow")
    assert report(scores={"fused": {"top1": 0.5, "top5": 1.0}}).branches == ("fused",)
    # Older reports have neither field; written again they keep their bytes, on which the registry's identity of a
    # version rests.
    assert "predictions" not in report().to_json()
    assert "members" not in report().to_json()
    assert EvalReport.from_json(report().to_json()).predictions == ""
    with pytest.raises(UserError, match="not an evaluation report"):
        EvalReport.from_json(whole.to_json().replace('"branch"', '"twig"'))
