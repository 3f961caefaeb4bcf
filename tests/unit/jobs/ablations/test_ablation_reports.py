"""The ablations: one budget a question, the papers' orders, verdicts, the picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from jobs.ablations.picture import plot
from jobs.ablations.questions import QUESTIONS, Contrast, Question
from jobs.ablations.report import as_json, compare, comparison_text, score
from jobs.ablations.variants import tiny_config
from jobs.recipes import crn_paper
from jobs.recipes import mrst as mrst_rows
from pipeline.config.base import as_dict
from pipeline.models import build_model, count_parameters
from preprocessing.synthetic.generate import SyntheticConfig

RIB = QUESTIONS["rib"]
VIDEOS = 40
STREAMS = ("rgb", "flow", "fused")


def made(question: Question, right: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """Results of two streams with so many of 40 videos right in each, one a seed."""
    return {
        variant.name: [
            {
                "variant": variant.name,
                "seed": seed,
                "fold": "",
                "top1": dict.fromkeys(STREAMS, k / VIDEOS),
                "correct": dict.fromkeys(STREAMS, "1" * k + "0" * (VIDEOS - k)),
                "params": 1,
                "train_top1": 1.0,
                "seconds": 1.0,
            }
            for seed, k in enumerate(right.get(variant.name, [20] * len(next(iter(right.values())))))
        ]
        for variant in question.variants
    }


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=list(QUESTIONS))
def test_one_budget_for_a_question(question: Question) -> None:
    configs = [as_dict(tiny_config(v, question.budget, "file:///set", 1)) for v in question.variants]
    rates = {variant.lr for variant in question.variants}
    for config in configs:
        if len(rates) > 1:  # strategies are compared over several rates
            config["optim"].update(lr=0, backbone_lr=0)
        for section in ("data", "clip", "optim", "run"):
            assert config[section] == configs[0][section]
    names = [variant.name for variant in question.variants]
    assert len(set(names)) == len(names)
    for contrast in question.contrasts:
        assert {*contrast.lower, *contrast.higher} <= set(names)


def test_the_crn_questions_have_the_papers_maps_and_mrst_has_classes_of_its_own_data() -> None:
    for name in ("coupling", "rib", "strategy", "real"):
        assert QUESTIONS[name].budget.crop // 16 == 7
    assert {v.model.num_steps for v in QUESTIONS["strategy"].variants} == {10}
    for name, task in (("coupling", "binding"), ("rib", "binding"), ("strategy", "binding"), ("mrst", "distractors")):
        made_of = SyntheticConfig(out=Path("x"), task=task)  # type: ignore[arg-type]
        assert QUESTIONS[name].classes == tuple(made_of.classes)


def test_controls_have_the_parameters_of_what_they_control() -> None:
    def params(question: str, name: str) -> int:
        return count_parameters(build_model(QUESTIONS[question].variant(name).model, num_classes=2, crop=112))

    crn = params("rib", "crn")
    assert params("coupling", "ncrn-rib") == params("rib", "rib-111") == crn
    assert params("rib", "srib-wide") == pytest.approx(crn, rel=0.001)
    assert params("rib", "srib") < 0.95 * crn


def test_what_the_paper_ranks_is_ranked_so_by_its_numbers() -> None:
    """HMDB-51 with BN-Inception, means over what a row prints; Table 4 over all its columns."""
    by_rib = {rib: np.mean(row) for rib, row in crn_paper.TABLE1["hmdb", "bni"].items()}
    by_strategy = {name: np.mean(row) for name, row in crn_paper.TABLE2.items()}
    own, coupled, _ = crn_paper.TABLE3["hmdb", "bni"]
    late, early, _, crn, _ = np.mean(list(crn_paper.TABLE4.values()), axis=0)
    printed: dict[str, dict[str, float]] = {
        "rib": {"no-rib": by_rib["none"], "srib": by_rib["srib"], "crn": by_rib["rib"]},
        "strategy": {f"strategy-{name}@0.01": value for name, value in by_strategy.items()},
        "mrst": {f"mrst-{unit}": row[1] for unit, row in mrst_rows.TABLE2.items()},
    }
    checked = 0
    for name, values in printed.items():
        for contrast in QUESTIONS[name].contrasts:
            if contrast.paper:
                lower, higher = contrast.lower[len(contrast.lower) // 2], contrast.higher[len(contrast.higher) // 2]
                assert values[lower] < values[higher], contrast.title
                checked += 1
    assert checked == 3 + 3 + 5
    assert np.mean(own) < np.mean(coupled)
    assert late < crn
    assert early < crn


@pytest.mark.parametrize(
    ("lower", "higher", "verdict"),
    [
        ([10, 11, 12, 10, 11, 12, 9, 10, 11, 12], [30, 31, 32, 33, 30, 31, 32, 33, 30, 31], "as the paper"),
        ([30, 31, 32, 33, 30, 31, 32, 33, 30, 31], [10, 11, 12, 10, 11, 12, 9, 10, 11, 12], "the opposite"),
        ([20, 31, 22, 13, 30, 21, 32, 13, 20, 31], [31, 20, 13, 22, 21, 30, 13, 32, 31, 20], "undecided"),
        ([10, 11, 12], [30, 31, 32], "undecided"),  # three seeds cannot reach 0.05
    ],
)
def test_a_corrected_p_value_and_the_interval_decide(lower: list[int], higher: list[int], verdict: str) -> None:
    results = made(RIB, {"srib": lower, "crn": higher})
    found = next(c for c in compare(RIB, results) if c.title == "crn - srib")
    assert found.verdict == verdict
    assert found.difference == pytest.approx((np.mean(higher) - np.mean(lower)) / VIDEOS)
    assert found.corrected_p >= found.p
    control = next(c for c in compare(RIB, results) if c.title == "crn - srib-wide")
    assert control.verdict in ("higher", "lower", "undecided")


def test_an_undecided_comparison_says_how_many_seeds_it_would_take() -> None:
    results = made(RIB, {"srib": [20, 24, 22, 18], "crn": [22, 23, 23, 20]})
    text = next(
        comparison_text({**dataclasses.asdict(c), "verdict": c.verdict})
        for c in compare(RIB, results)
        if c.title == "crn - srib"
    )
    apart = np.array([2, -1, 1, 2]) / VIDEOS
    needed = max(6, int(np.ceil((2.8016 * apart.std(ddof=1) / apart.mean()) ** 2)))
    assert text.startswith("crn - srib: +2.5 points (")
    assert text.endswith(f"undecided; this difference would take about {needed} seeds or folds, not 4")


def test_a_side_of_several_variants_counts_with_its_mean() -> None:
    question = dataclasses.replace(RIB, contrasts=(Contrast(("no-rib", "srib"), ("crn", "rib-111")),))
    results = made(question, {"no-rib": [10, 12], "srib": [20, 18], "crn": [30, 30], "rib-111": [20, 26]})
    found = compare(question, results)[0]
    assert found.difference == pytest.approx((np.mean([25, 28]) - np.mean([15, 15])) / VIDEOS)


def test_the_share_of_seeds_that_learned() -> None:
    found = score(RIB, made(RIB, {"crn": [20, 21, 38, 40]}), "crn", "rgb")  # chance is 20 of 40
    assert found.learned == 0.5
    assert found.low < found.mean < found.high


def test_folds_are_units_and_their_seeds_are_averaged() -> None:
    question = dataclasses.replace(RIB, folds=QUESTIONS["real"].folds[:3])
    results = made(question, {"crn": [10, 20, 30, 14, 24, 34]})
    for taken in results.values():
        for i, result in enumerate(taken):
            result["fold"], result["seed"] = f"{i % 3:02d}", i // 3
    found = score(question, results, "crn", "rgb")
    assert found.mean == pytest.approx(np.mean([12, 22, 32]) / VIDEOS)
    assert found.sd == pytest.approx(np.std([12, 22, 32], ddof=1) / VIDEOS)


def test_the_picture_shows_every_stream_and_the_file_every_number(tmp_path: Path) -> None:
    summary = as_json(RIB, made(RIB, {"crn": [38, 39, 40], "no-rib": [20, 22, 18]}))
    plot(summary, tmp_path / "plot.png")
    pixels = image.imread(tmp_path / "plot.png")[..., :3]
    for color in ((0xC0, 0x39, 0x2B), (0x24, 0x71, 0xA3)):  # the marks of the RGB and the flow stream
        assert (abs(pixels - np.array(color) / 255) < 0.02).all(-1).sum() > 50
    assert len(summary["scores"]) == 5 * 3
    assert len(summary["comparisons"]) == 5
    json.dumps(summary)


def test_a_network_of_one_modality_has_one_score() -> None:
    question = QUESTIONS["mrst"]
    results = made(question, {variant.name: [20, 30] for variant in question.variants})
    for taken in results.values():  # as a network with one branch reports it
        for result in taken:
            for field in ("top1", "correct"):
                result[field] = {"rgb": result[field]["fused"], "fused": result[field]["fused"]}
    scores = as_json(question, results)["scores"]
    assert [(score["variant"], score["stream"]) for score in scores] == [(v.name, "fused") for v in question.variants]
