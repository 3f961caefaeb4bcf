"""The ablations: one budget a question, the papers' orders, verdicts, trainings that are not repeated, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image

from jobs.ablations.command import AblationsArgs, ablations, chosen, plan, plan_starts, run_all
from jobs.ablations.picture import plot
from jobs.ablations.questions import QUESTIONS, Contrast, Question
from jobs.ablations.report import as_json, compare, comparison_text, score
from jobs.ablations.training import Training, kept_backbones, load_backbones, result_path, train_and_test
from jobs.ablations.variants import Fold, tiny_config
from jobs.recipes import crn_paper
from jobs.recipes import mrst as mrst_rows
from pipeline.config.base import as_dict
from pipeline.config.data import DataConfig
from pipeline.config.train import TrainConfig
from pipeline.data.index import load_run_index
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError, ManifestError
from pipeline.models import build_model, count_parameters
from pipeline.storage import Storage, open_storage
from preprocessing.synthetic.generate import SyntheticConfig
from tests.support.stored_set import clips_of, store_manifest, store_shard

RIB = QUESTIONS["rib"]
VIDEOS = 40


def made(question: Question, right: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """Results with so many of 40 videos right in every stream, one a seed."""
    return {
        variant.name: [
            {
                "variant": variant.name,
                "seed": seed,
                "fold": "",
                "top1": dict.fromkeys(question.streams, k / VIDEOS),
                "correct": dict.fromkeys(question.streams, "1" * k + "0" * (VIDEOS - k)),
                "params": 1,
                "train_top1": 1.0,
                "seconds": 1.0,
            }
            for seed, k in enumerate(right.get(variant.name, [20] * len(next(iter(right.values())))))
        ]
        for variant in question.variants
    }


@pytest.fixture
def data(tmp_path: Path) -> tuple[Storage, Manifest]:
    storage = open_storage(f"file://{tmp_path}/set")
    records = [
        store_shard(storage, tmp_path, *path.split("/"), clips)
        for path, clips in clips_of({"train/shard-000000": 6, "test/shard-000000": 3}).items()
    ]
    return storage, store_manifest(storage, records)


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
    found = next(c for c in compare(RIB, results) if c.title == "crn - srib" and c.stream == "rgb")
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
    assert text.startswith("crn - srib, S-Net (RGB): +2.5 points (")
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
    assert len(summary["comparisons"]) == 5 * 3
    json.dumps(summary)


def test_every_training_once_and_whole_seeds_first(data: tuple[Storage, Manifest]) -> None:
    args = AblationsArgs(data_uri=data[0].uri, seeds=2)
    trainings = plan(args, RIB, data[1])
    assert [(t.variant, t.config.run.seed) for t in trainings] == [
        (variant.name, seed) for seed in (0, 1) for variant in RIB.variants
    ]
    assert len({t.path for t in trainings}) == len(trainings)


def test_every_fold_leaves_out_its_sources(data: tuple[Storage, Manifest]) -> None:
    trainings = plan(AblationsArgs(data_uri=data[0].uri, seeds=1), QUESTIONS["real"], data[1])
    assert len({t.path for t in trainings}) == len(trainings) == 10 * 6
    left_out = [t.config.data.val_sources for t in trainings if t.variant == "crn"]
    assert sorted(name for names in left_out for name in names) == [f"seq{n:02d}" for n in range(1, 21)]


def test_questions_are_chosen_by_the_classes(data: tuple[Storage, Manifest]) -> None:
    for name, question in QUESTIONS.items():
        meant = dataclasses.replace(data[1], classes=question.classes)
        found = [q.name for q in chosen(AblationsArgs(data_uri="file:///set"), meant)]
        assert name in found
        assert all(QUESTIONS[other].classes == question.classes for other in found)
    with pytest.raises(ConfigError, match=r"^questions = \(\): file:///set is not a data set that a question is meant"):
        chosen(AblationsArgs(data_uri="file:///set"), data[1])
    assert [q.name for q in chosen(AblationsArgs(data_uri="file:///set", questions=("mrst", "mrst")), data[1])] == [
        "mrst"
    ]


def config_of(name: str, question: str, uri: str, seed: int, epochs: int) -> TrainConfig:
    asked = QUESTIONS[question]
    return tiny_config(asked.variant(name), dataclasses.replace(asked.budget, crop=48), uri, seed, epochs=epochs)


def test_a_result_belongs_to_its_config_and_data(data: tuple[Storage, Manifest]) -> None:
    config = config_of("crn", "rib", data[0].uri, 0, 2)
    path = result_path("crn", config, data[1])
    assert path == result_path("crn", config_of("crn", "rib", data[0].uri, 0, 2), data[1])
    others = [
        result_path("crn", config_of("crn", "rib", data[0].uri, 0, 3), data[1]),
        result_path("crn", config, dataclasses.replace(data[1], code_version="other")),
    ]
    assert path not in others


@pytest.mark.slow
def test_a_training_is_stored_repeatable_and_not_repeated(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    config = config_of("mrst-t", "mrst", data[0].uri, 3, 1)
    training = Training("mrst-t", config, result_path("mrst-t", config, data[1]))
    threads = torch.get_num_threads()
    results = [train_and_test(training, f"file://{tmp_path}/{name}") for name in ("one", "two")]
    torch.set_num_threads(threads)
    path = tmp_path / "one" / training.path
    assert json.loads(path.read_text()) == results[0]
    measured = {"seconds"}
    assert {k: v for k, v in results[0].items() if k not in measured} == {
        k: v for k, v in results[1].items() if k not in measured
    }
    assert len(results[0]["correct"]["fused"]) == 3  # videos
    assert results[0]["top1"]["fused"] == pytest.approx(results[0]["correct"]["fused"].count("1") / 3)
    path.write_text(json.dumps({**results[0], "train_top1": -1.0}))
    assert train_and_test(training, f"file://{tmp_path}/one")["train_top1"] == -1.0
    found = run_all({training.path: training}, open_storage(f"file://{tmp_path}/one"))  # no Ray here
    assert found[training.path]["train_top1"] == -1.0


def test_backbones_come_from_the_training_before_and_nothing_else_does(tmp_path: Path) -> None:
    start = QUESTIONS["coupling"].start
    assert start is not None
    torch.manual_seed(0)
    first = build_model(start.variant.model, num_classes=4, crop=112)
    data = kept_backbones(first)
    for variant in QUESTIONS["coupling"].variants:
        torch.manual_seed(1)
        model = build_model(variant.model, num_classes=2, crop=112)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        load_backbones(model, data)
        for name, value in model.state_dict().items():
            wanted = first.state_dict()[name] if ".backbone." in name else before[name]
            assert torch.equal(value, wanted), name
        assert any(".backbone." in name and not torch.equal(before[name], v) for name, v in model.state_dict().items())


def test_every_seed_has_a_start_of_its_own(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    start = QUESTIONS["rib"].start
    assert start is not None
    storage = open_storage(f"file://{tmp_path}/parts")
    clips = clips_of({"train/shard-000000": 4})
    records = [store_shard(storage, tmp_path, *path.split("/"), taken) for path, taken in clips.items()]
    store_manifest(storage, records)
    asked = AblationsArgs(data_uri=data[0].uri, seeds=2)
    with pytest.raises(ConfigError, match=r"^start_uri = '': rib trains each stream alone first: make such a set"):
        plan_starts(asked, RIB)
    with pytest.raises(ConfigError, match=r"^start_uri = .*: has other classes"):
        plan_starts(dataclasses.replace(asked, start_uri=storage.uri), RIB)
    classes = read_manifest(storage).classes
    small = dataclasses.replace(start, classes=classes, budget=dataclasses.replace(start.budget, crop=48))
    question = dataclasses.replace(RIB, start=small)
    starts = plan_starts(dataclasses.replace(asked, start_uri=storage.uri), question)
    assert [t.config.run.seed for t in starts] == [0, 1]
    trainings = plan(asked, question, data[1], starts)
    assert {(t.config.run.seed, t.start) for t in trainings} == {(0, starts[0].keep), (1, starts[1].keep)}
    without = plan(asked, question, data[1])
    assert not {t.path for t in trainings} & {t.path for t in without}, "another start is another training"
    assert plan_starts(asked, QUESTIONS["mrst"]) == []


@pytest.mark.slow
def test_a_training_starts_from_what_the_one_before_it_kept(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    asked, out = QUESTIONS["coupling"], f"file://{tmp_path}/out"
    assert asked.start is not None
    small = dataclasses.replace(asked.budget, crop=48)
    first = tiny_config(asked.start.variant, small, data[0].uri, 0, epochs=1)
    then = tiny_config(asked.variant("crn"), small, data[0].uri, 0, epochs=1)
    threads = torch.get_num_threads()
    train_and_test(Training("start", first, "start.json", keep="start.safetensors"), out)
    results = [
        train_and_test(Training("crn", then, f"{start or 'random'}.crn.json", start=start), out)
        for start in ("start.safetensors", "")
    ]
    torch.set_num_threads(threads)
    assert (tmp_path / "out" / "start.safetensors").stat().st_size > 100_000
    assert all(set(result["top1"]) == {"rgb", "flow", "fused"} for result in results)


@pytest.mark.slow
def test_a_fold_is_tested_on_what_it_left_out(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    index = load_run_index(*data, "train", ("rgb",), DataConfig(val_split=""))
    last = {index.key(i).rpartition("-")[0][-1] for i in range(len(index))}
    fold = Fold("x", (min(last),))
    asked = QUESTIONS["mrst"]
    config = tiny_config(
        asked.variant("mrst-t"),
        dataclasses.replace(asked.budget, crop=48),
        data[0].uri,
        0,
        epochs=1,
        fold=fold,
        pattern=r"(\d)$",
    )
    threads = torch.get_num_threads()
    found = train_and_test(Training("mrst-t", config, "x.json", "x"), f"file://{tmp_path}/out")
    torch.set_num_threads(threads)
    left_out = sum(index.key(i).rpartition("-")[0][-1] == min(last) for i in range(len(index)))
    assert len(found["correct"]["fused"]) == left_out < len(index)
    assert found["fold"] == "x"


def test_wrong_fields_and_data_are_refused_before_any_training(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    for changes, field in (
        ({"seeds": 0}, "seeds"),
        ({"epochs": -1}, "epochs"),
        ({"data_uri": "/set"}, "data_uri"),
        ({"out": "here"}, "out"),
    ):
        with pytest.raises(ConfigError, match=f"^{field} = "):
            AblationsArgs(**{"data_uri": "file:///set", **changes})
    storage = open_storage(f"file://{tmp_path}/untested")
    store_manifest(
        storage,
        [
            store_shard(storage, tmp_path, *path.split("/"), clips)
            for path, clips in clips_of({"train/shard-000000": 3}).items()
        ],
    )
    with pytest.raises(ManifestError, match="split test is missing"):
        ablations(AblationsArgs(data_uri=storage.uri, questions=("mrst",)))
    assert read_manifest(data[0]).digest == data[1].digest
