"""The ablations: one budget, the papers' order, statistics against SciPy's, trainings that are not repeated,
refusals.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from scipy.stats import ttest_rel

from jobs.ablations import command as job
from jobs.ablations.command import AblationsArgs, ablations, plan, run_all
from jobs.ablations.report import as_json, compare, comparisons, mean_and_sd, plot
from jobs.ablations.training import result_path, train_and_test
from jobs.ablations.variants import GROUPS, VARIANTS, tiny_config
from jobs.recipes import RECIPES, Recipe, crn_paper
from jobs.recipes import mrst as mrst_rows
from pipeline.config.base import as_dict
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError, ManifestError
from pipeline.storage import Storage, open_storage
from tests.support.stored_set import clips_of, store_manifest, store_shard

RIB = GROUPS["rib"]


def made(top1: dict[str, list[float]], stream: str = "rgb") -> dict[str, list[dict[str, Any]]]:
    """Results with these values per variant, one a seed; other streams never move."""
    others = {"rgb": 0.5, "flow": 0.5, "fused": 0.5}
    return {
        name: [
            {
                "name": name,
                "seed": seed,
                "top1": {**others, stream: value},
                "params": 1,
                "train_top1": 1.0,
                "seconds": 1.0,
            }
            for seed, value in enumerate(values)
        ]
        for name, values in top1.items()
    }


@pytest.fixture
def data(tmp_path: Path) -> tuple[Storage, Manifest]:
    storage = open_storage(f"file://{tmp_path}/set")
    records = [
        store_shard(storage, tmp_path, *path.split("/"), clips)
        for path, clips in clips_of({"train/shard-000000": 6, "test/shard-000000": 3}).items()
    ]
    return storage, store_manifest(storage, records)


@pytest.mark.parametrize("family", ["crn", "mrst"])
def test_one_budget_for_a_family(family: str) -> None:
    configs = [as_dict(tiny_config(v, "file:///set", 1, 5)) for v in VARIANTS.values() if v.model.kind == family]
    assert len(configs) >= 5
    for config in configs[1:]:
        for section in ("data", "clip", "optim", "run"):
            assert config[section] == configs[0][section]
    assert len({json.dumps(config["model"], sort_keys=True) for config in configs}) == len(configs)


def test_orders_are_those_of_the_printed_numbers() -> None:
    """The numbers stand in the recipes; HMDB-51 with BN-Inception, means over what a row prints."""
    by_rib = {rib: np.mean(row) for rib, row in crn_paper.TABLE1["hmdb", "bni"].items()}
    assert [{"no-rib": "none", "crn": "rib"}.get(v, v) for v in RIB.variants] == sorted(by_rib, key=by_rib.__getitem__)
    by_strategy = {name: np.mean(row) for name, row in crn_paper.TABLE2.items()}
    assert [v.removeprefix("strategy-").replace("crn", "c") for v in GROUPS["strategy"].variants] == sorted(
        by_strategy, key=by_strategy.__getitem__
    )
    own, coupled, _ = crn_paper.TABLE3["hmdb", "bni"]
    assert np.mean(own) < np.mean(coupled)
    late, early, _, crn, _ = np.mean(list(crn_paper.TABLE4.values()), axis=0)
    assert dict(zip(GROUPS["fusion"].variants, sorted((late, early, crn)), strict=True))["crn"] == crn
    by_unit = {unit: row[1] for unit, row in mrst_rows.TABLE2.items() if unit != "c3d"}
    assert [v.removeprefix("mrst-") for v in GROUPS["mrst"].variants] == sorted(by_unit, key=by_unit.__getitem__)
    assert all(isinstance(entry, Recipe) for entry in RECIPES.values())


def test_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 7):
        worse, better = rng.uniform(0.2, 0.9, (2, seeds))
        found = compare(RIB, "rgb", "no-rib", "crn", made({"no-rib": list(worse), "crn": list(better)}))
        low, high = ttest_rel(better, worse).confidence_interval(0.95)
        assert found.half_width is not None
        assert (found.difference - found.half_width, found.difference + found.half_width) == pytest.approx(
            (low, high), abs=1e-12
        )
    assert mean_and_sd([0.5]) == (0.5, None)
    assert mean_and_sd([0.2, 0.4]) == (pytest.approx(0.3), pytest.approx(np.std([0.2, 0.4], ddof=1)))


@pytest.mark.parametrize(
    ("worse", "better", "verdict"),
    [
        ([0.50, 0.51, 0.52], [0.60, 0.61, 0.63], "as the paper"),
        ([0.60, 0.61, 0.63], [0.50, 0.51, 0.52], "the opposite"),
        ([0.50, 0.61, 0.52], [0.60, 0.51, 0.63], "undecided"),
        ([0.50], [0.90], "undecided"),
    ],
)
def test_only_an_interval_without_zero_decides_a_comparison(
    worse: list[float], better: list[float], verdict: str
) -> None:
    assert compare(RIB, "rgb", "srib", "crn", made({"srib": worse, "crn": better})).verdict == verdict


def test_neighbours_and_ends_are_compared() -> None:
    results = made({name: [0.1, 0.2] for name in RIB.variants})
    pairs = [(c.worse, c.better) for c in comparisons([RIB], results) if c.stream == "flow"]
    assert pairs == [("no-rib", "srib"), ("srib", "crn"), ("no-rib", "crn")]


def test_the_picture_shows_every_stream_and_the_file_every_number(tmp_path: Path) -> None:
    groups = [RIB, GROUPS["fusion"]]
    results = made(
        {name: [0.3 + 0.1 * i, 0.5, 0.7] for i, name in enumerate(dict.fromkeys(v for g in groups for v in g.variants))}
    )
    plot(groups, results, 1 / 12, tmp_path / "plot.png")
    pixels = image.imread(tmp_path / "plot.png")[..., :3]
    red = (abs(pixels - np.array([0xC0, 0x39, 0x2B]) / 255) < 0.02).all(-1).sum()
    assert red > 50  # the marks of the RGB stream
    numbers = as_json(groups, results)
    assert numbers["summary"]["srib"]["rgb"] == {
        "mean": pytest.approx(np.mean([0.4, 0.5, 0.7])),
        "sd": pytest.approx(np.std([0.4, 0.5, 0.7], ddof=1)),
    }
    assert len(numbers["comparisons"]) == 3 * 3 + 3
    json.dumps(numbers)


def test_every_training_once_and_whole_seeds_first(data: tuple[Storage, Manifest]) -> None:
    args = AblationsArgs(data_uri=data[0].uri, seeds=2)
    trainings = plan(args, list(GROUPS.values()), data[1])
    assert [(t.name, t.config.run.seed) for t in trainings] == [
        (name, seed) for seed in (0, 1) for name in dict.fromkeys(v for g in GROUPS.values() for v in g.variants)
    ]
    assert len({t.path for t in trainings}) == len(trainings) == 2 * len(VARIANTS)


def test_a_result_belongs_to_its_config_and_data(data: tuple[Storage, Manifest]) -> None:
    config = tiny_config(VARIANTS["crn"], data[0].uri, 0, 2)
    path = result_path("crn", config, data[1])
    assert path == result_path("crn", tiny_config(VARIANTS["crn"], data[0].uri, 0, 2), data[1])
    others = [
        result_path("crn", tiny_config(VARIANTS["crn"], data[0].uri, 0, 3), data[1]),
        result_path("crn", config, dataclasses.replace(data[1], code_version="other")),
    ]
    assert path not in others


@pytest.mark.slow
def test_a_training_is_stored_repeatable_and_not_repeated(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    config = tiny_config(VARIANTS["mrst-t"], data[0].uri, 3, 1)
    threads = torch.get_num_threads()
    results = [train_and_test("mrst-t", config, f"file://{tmp_path}/{name}") for name in ("one", "two")]
    torch.set_num_threads(threads)
    path = tmp_path / "one" / result_path("mrst-t", config, data[1])
    assert json.loads(path.read_text()) == results[0]
    measured = {"seconds"}
    assert {k: v for k, v in results[0].items() if k not in measured} == {
        k: v for k, v in results[1].items() if k not in measured
    }
    assert 3 * results[0]["top1"]["fused"] == pytest.approx(round(3 * results[0]["top1"]["fused"]))  # three videos
    path.write_text(json.dumps({**results[0], "train_top1": -1.0}))
    assert train_and_test("mrst-t", config, f"file://{tmp_path}/one")["train_top1"] == -1.0
    assert (
        run_all([job.Training("mrst-t", config, path.name)], open_storage(f"file://{tmp_path}/one"))["mrst-t"][0][
            "train_top1"
        ]
        == -1.0
    )  # no Ray here


def test_wrong_fields_and_data_are_refused_before_any_training(data: tuple[Storage, Manifest], tmp_path: Path) -> None:
    for changes, field in (
        ({"seeds": 0}, "seeds"),
        ({"epochs": 0}, "epochs"),
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
        ablations(AblationsArgs(data_uri=storage.uri))
    assert read_manifest(data[0]).digest == data[1].digest
