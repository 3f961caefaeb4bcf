"""What an ablation trains: every training once, results that are not repeated, starts, folds, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from jobs.ablations.command import AblationsArgs, ablations, chosen, plan, plan_starts, run_all
from jobs.ablations.questions import QUESTIONS
from jobs.ablations.training import Training, kept_backbones, load_backbones, result_path, train_and_test
from jobs.ablations.variants import Fold, tiny_config
from pipeline.config.data import DataConfig
from pipeline.config.train import TrainConfig
from pipeline.data.index import load_run_index
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError, ManifestError
from pipeline.models import build_model
from pipeline.storage import Storage, open_storage
from tests.support.stored_set import clips_of, store_manifest, store_shard

RIB = QUESTIONS["rib"]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Storage, Manifest]:
    storage = open_storage(f"file://{tmp_path}/set")
    records = [
        store_shard(storage, tmp_path, *path.split("/"), clips)
        for path, clips in clips_of({"train/shard-000000": 6, "test/shard-000000": 3}).items()
    ]
    return storage, store_manifest(storage, records)


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
