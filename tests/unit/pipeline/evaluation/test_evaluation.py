from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sk_confusion
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import top_k_accuracy_score

from pipeline.data.batch import Batch
from pipeline.errors import ReciprocalError, UserError
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.evaluation.metrics import confusion_matrix, log_loss, per_class_recall, topk_accuracy
from pipeline.evaluation.plots import plot_confusion
from pipeline.evaluation.report import STREAM_NAMES, EvalReport, compare, protocol_name


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(7), 200), rng.integers(0, 7, 200)
    for k in (1, 3, 5):
        assert topk_accuracy(p, y, k) == pytest.approx(top_k_accuracy_score(y, p, k=k, labels=np.arange(7)))
    assert log_loss(p, y) == pytest.approx(sk_log_loss(y, p, labels=np.arange(7)))
    assert (confusion_matrix(p, y) == sk_confusion(y, p.argmax(1), labels=np.arange(7))).all()


def test_a_constant_prediction_earns_nothing() -> None:
    assert topk_accuracy(np.full((4, 3), 1 / 3), np.array([0, 0, 0, 0]), 1) == 0


def test_the_loss_of_a_video_without_an_answer_is_finite() -> None:
    p = np.array([[0.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])
    assert log_loss(p, np.array([0, 0, 0])) == pytest.approx(2 / 3 * np.log(1e7))


def test_a_class_without_videos_has_no_recall() -> None:
    assert per_class_recall(np.array([[1, 1], [0, 0]])) == [0.5, None]


class Echo(torch.nn.Module):
    """Logits are the first two values of the picture: what goes in can be computed by hand."""

    modalities = ("rgb", "flow")

    def forward(self, inputs, steps=None):
        return {name: x.flatten(1)[:, None, :2] for name, x in inputs.items()}


def batch(values: dict[str, list[list[float]]], keys: list[str], weights: list[float]) -> Batch:
    inputs = {name: torch.tensor(v).view(len(keys), 1, 2, 1, 1) for name, v in values.items()}
    return Batch(
        inputs, torch.zeros(len(keys), dtype=torch.int64), torch.tensor(weights, dtype=torch.float32), tuple(keys), 0, 0
    )


def softmax(*x: float) -> np.ndarray:
    e = np.exp(np.array(x) - max(x))
    return e / e.sum()


def test_views_and_branches_are_averaged_as_probabilities() -> None:
    rgb, flow = [[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]], [[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]
    part = predict_part(
        Echo(), [batch({"rgb": rgb, "flow": flow}, ["a", "a", ""], [1, 1, 0])], device=torch.device("cpu")
    )  # type: ignore[arg-type]
    predictions = join_parts([part], {"a": 0})
    expected_rgb = (softmax(2, 0) + softmax(0, 1)) / 2
    expected_flow = (softmax(1, 0) + softmax(3, 0)) / 2
    np.testing.assert_allclose(predictions.streams["rgb"][0], expected_rgb, atol=1e-7)
    np.testing.assert_allclose(predictions.streams["fused"][0], (expected_rgb + expected_flow) / 2, atol=1e-7)


def test_a_damaged_video_is_counted_and_wrong() -> None:
    values = {"rgb": [[9.0, 0.0], [9.0, 0.0]], "flow": [[9.0, 0.0], [9.0, 0.0]]}
    part = predict_part(Echo(), [batch(values, ["good", "bad"], [1, 0])], device=torch.device("cpu"))
    predictions = join_parts([part], {"good": 0, "bad": 0})
    assert predictions.num_damaged == 1
    assert predictions.scores()["fused"]["top1"] == 0.5


def test_exactly_once_or_not_at_all() -> None:
    values = {"rgb": [[1.0, 0.0]], "flow": [[1.0, 0.0]]}
    parts = [predict_part(Echo(), [batch(values, [key], [1])], device=torch.device("cpu")) for key in ("a", "b", "a")]
    with pytest.raises(ReciprocalError, match=r"doubled \['a'\]"):
        join_parts(parts, {"a": 0, "b": 0})
    with pytest.raises(ReciprocalError, match=r"missing \['c'\]"):
        join_parts(parts[:2], {"a": 0, "b": 0, "c": 0})
    with pytest.raises(ReciprocalError, match=r"unknown \['b'\]"):
        join_parts(parts[:2], {"a": 0})


def report(top1: float = 0.5, **changes: object) -> EvalReport:
    base = EvalReport(
        run_id="r",
        model="m",
        modalities=("rgb",),
        dataset="d",
        manifest_digest="x" * 64,
        split="test",
        protocol="4x1",
        num_videos=4,
        num_damaged=0,
        classes=("a", "b"),
        scores={"rgb": {"top1": top1, "top5": 1.0}, "fused": {"top1": top1, "top5": 1.0}},
        per_class=(0.5, None),
        confusion=((1, 1), (0, 2)),
        checkpoint="c",
        code_version="v",
        seconds=1.0,
    )
    return dataclasses.replace(base, **changes)


def test_report_round_trip_and_metric_names() -> None:
    assert EvalReport.from_json(report().to_json()) == report()
    assert report().metrics()["test/top1_4x1"] == 0.5
    assert "test/rgb/top5_4x1" in report().metrics()
    with pytest.raises(UserError, match="not an evaluation report"):
        EvalReport.from_json("{}")


def test_every_modality_has_a_name_and_every_protocol_one() -> None:
    from pipeline.config.model import CHANNELS

    assert STREAM_NAMES.keys() == {*CHANNELS, "fused"}
    assert protocol_name(10, 3) == "10x3"
    assert "test/top1_10x3" in report(protocol=protocol_name(10, 3)).metrics()


@pytest.mark.parametrize(
    ("candidate", "current", "promote", "why"),
    [
        (report(0.6), None, True, "no version has the alias"),
        (report(0.6), report(0.5), True, "0.6000 against the current version's 0.5000"),
        (report(0.5), report(0.5), False, "0.5000 against"),
        (report(0.9, protocol="20x1"), report(0.5), False, "protocol differs"),
        (report(0.9, manifest_digest="y" * 64), report(0.5), False, "manifest_digest differs"),
        (report(0.9, num_damaged=1), None, False, "could not be read"),
    ],
)
def test_only_a_better_report_on_the_same_data_is_promoted(
    candidate: EvalReport, current: EvalReport | None, promote: bool, why: str
) -> None:
    decision = compare(candidate, current)
    assert decision.promote is promote
    assert why in decision.why


@pytest.mark.parametrize(("top1", "min_gain", "promote"), [(0.75, 0.25, True), (0.75, 0.3, False), (0.5, 0.0, False)])
def test_a_gain_that_is_too_small_is_not_promoted(top1: float, min_gain: float, promote: bool) -> None:
    assert compare(report(top1), report(0.5), min_gain).promote is promote


def test_a_worse_lower_bound_is_not_promoted() -> None:
    sure = report(0.5, intervals={"fused": {"top1": (0.45, 0.55)}})
    assert not compare(report(0.6, intervals={"fused": {"top1": (0.4, 0.8)}}), sure).promote
    assert compare(report(0.6, intervals={"fused": {"top1": (0.45, 0.8)}}), sure).promote
    assert "lower bound" in compare(report(0.75), report(0.5, intervals={"fused": {"top1": (0.7, 0.8)}})).why


def test_the_confusion_matrix_is_written_as_png(tmp_path: Path) -> None:
    plot_confusion(report(), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_letters_that_no_font_has_are_drawn_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.plots._MORE_FONTS", ())
    found = report()
    plot_confusion(dataclasses.replace(found, classes=("走る", *found.classes[1:])), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
