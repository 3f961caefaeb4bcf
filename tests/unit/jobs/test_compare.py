"""``python -m jobs.compare``: runs beside the papers' numbers, and beside each other, on made-up evaluations."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from jobs.compare.command import main, table_rows
from jobs.compare.paired import mcnemar_p
from jobs.compare.rows import COMPARABLE
from jobs.recipes import ENSEMBLES, RECIPES, default_views, find_recipe
from jobs.recipes.published import PUBLISHED, published
from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.report import EnsembleInput, EvalReport, report_path
from pipeline.runs.folder import RESULT, RUN, RunRecord
from pipeline.storage import Storage, open_storage
from tests.support.run_folder import RESULT_FIELDS

TOP1, TOP5 = 0.75, 0.9


def as_the_paper(recipe: str) -> TrainConfig:
    """The recipe's config, with the initial weights that its paper starts from."""
    config, option = find_recipe(recipe), RECIPES[recipe].option
    if option == "model.pretrained":
        return dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained="s3://w/imagenet.pt"))
    return dataclasses.replace(config, start_from="s3://runs/k400") if option else config


def report_of(recipe: str, **changes: Any) -> EvalReport:
    """As the paper evaluates: its data set's classes and videos, its number of views."""
    entry = RECIPES.get(recipe) or ENSEMBLES[recipe]
    config = find_recipe(recipe if recipe in RECIPES else entry.members[0][0])  # type: ignore[union-attr]
    facts = published(entry.data)
    classes, videos, split = (facts.classes, facts.videos[0], facts.split) if facts else (6, 40, "test")
    scores = {s: {"top1": TOP1, "top5": TOP5, "mean_class": 0.7} for s in (*config.model.modalities, "fused")}
    made = EvalReport(
        run_id="r",
        model=recipe,
        modalities=config.model.modalities,
        dataset="set",
        manifest_digest="d" * 64,
        split=split,
        protocol=f"{default_views(config)}x1",
        num_videos=videos,
        num_damaged=0,
        classes=tuple(f"c{i}" for i in range(classes)),
        scores=scores,
        per_class=(None,) * classes,
        confusion=((0,) * classes,) * classes,
        checkpoint="checkpoint_1",
        code_version="v",
        seconds=1.0,
    )
    return dataclasses.replace(made, **changes)


def store(folder: Path, name: str, report: EvalReport, config: TrainConfig | None = None) -> str:
    """A run's folder, or without a config an ensemble's; returns its URI."""
    run = open_storage(f"file://{folder}/{name}")
    if config is not None:
        record = RunRecord(
            config=as_dict(config), identity={}, manifest_digest=report.manifest_digest, code_version="v"
        )
        run.write(RUN, json.dumps(dataclasses.asdict(record)).encode())
        run.write(RESULT, json.dumps(RESULT_FIELDS).encode())
    run.write(report_path(report.split, report.protocol), report.to_json().encode())
    return run.uri


def compared(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, str]]:
    """The rows against the papers that a command prints as Markdown, by heading."""
    capsys.readouterr()
    assert main([*args, "--format", "markdown"]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    start = next((i for i, line in enumerate(lines) if line[0] == "row"), len(lines))
    return [dict(zip(lines[start], line, strict=True)) for line in lines[start + 2 :]]


@pytest.mark.parametrize("recipe", [name for name, entry in RECIPES.items() if entry.row])
def test_a_run_as_the_paper_says_is_comparable(recipe: str, tmp_path: Path, capsys) -> None:
    entry = RECIPES[recipe]
    uris = [
        store(tmp_path, f"run{i}", report_of(recipe, manifest_digest=f"{i}" * 64), as_the_paper(recipe))
        for i in range(3 if "splits 1-3" in entry.data else 1)
    ]
    rows = compared(capsys, *uris, *(["--mean-of-splits"] if len(uris) > 1 else []))
    assert [(row["net"], float(row["printed"].split()[0])) for row in rows] == [
        (number.what, number.value) for number in entry.printed
    ]
    for row, number in zip(rows, entry.printed, strict=True):
        if number.mean_with:
            both = f"mean: the paper prints that of {recipe} and {number.mean_with}, one run each"
            assert row["verdict"] == both
        elif number.unit == "%":
            ours = 100 * (TOP5 if "top-5" in number.what else TOP1)
            assert row["verdict"] == COMPARABLE, row
            assert float(row["here"].split()[0]) == pytest.approx(ours, abs=0.02)
            assert float(row["difference"]) == pytest.approx(ours - number.value, abs=0.02)


def test_every_printed_number_of_every_table(capsys) -> None:
    tables = [f"crn-{n}" for n in range(1, 7)] + [f"mrst-{n}" for n in range(2, 5)]
    found = [(row["recipe"], row["net"]) for table in tables for row in compared(capsys, "--table", table)]
    entries = (*RECIPES.values(), *ENSEMBLES.values())
    once = {
        (min(entry.name, number.mean_with or entry.name, key=names.index), number.what)
        for names in [[entry.name for entry in entries]]
        for entry in entries
        for number in entry.printed
    }
    assert sorted(found) == sorted(once)
    with pytest.raises(ConfigError, match="table = 'crn-7': must be one of crn-1, crn-2"):
        table_rows("crn-7")


UCF = "crn_t4_ucf_bni_crn"


@pytest.mark.parametrize(
    ("report", "config", "verdict"),
    [
        ({"num_videos": 3700}, {}, r"subset: 3,700 videos, UCF-101 has 3,783, 3,734, 3,696"),
        ({"classes": ("a", "b"), "confusion": ((0, 0), (0, 0))}, {}, r"data: 2 classes, UCF-101 has 101"),
        ({"split": "val"}, {}, r"split: val, the paper's is test"),
        ({"protocol": "10x3"}, {}, r"protocol: 10x3 views x crops, the paper's is 4x1"),
        ({"num_damaged": 2}, {}, r"2 videos could not be read"),
        ({}, {"pretrained": ""}, r"pre-training: random weights"),
        ({}, {"hidden": 64, "strategy": "a"}, r"fields: model\.hidden 64 \(the recipe's 512\), model\.strategy a"),
        ({}, {"kernel_size": 5, "hidden": 1, "adapted": 2, "num_layers": 1}, r"fields: .*, .*, .* and 1 more"),
    ],
)
def test_what_keeps_a_row_from_being_comparable(
    report: dict[str, Any], config: dict[str, Any], verdict: str, tmp_path: Path, capsys
) -> None:
    paper = as_the_paper(UCF)
    changed = dataclasses.replace(paper, model=dataclasses.replace(paper.model, **config))
    row = compared(capsys, store(tmp_path, "run", report_of(UCF, **report), changed))[0]
    assert re.search(rf"(^|; ){verdict}.*; split: one of three; the paper prints their mean", row["verdict"]), row


def test_the_mean_of_three_splits(tmp_path: Path, capsys) -> None:
    shares, sizes = (0.9, 0.8, 0.7), PUBLISHED["UCF-101"].videos
    uris = [
        store(
            tmp_path,
            f"s{i}",
            report_of(
                UCF,
                manifest_digest=f"{i}" * 64,
                num_videos=size,
                scores={s: {"top1": share, "top5": 1.0} for s in ("rgb", "flow", "fused")},
            ),
            as_the_paper(UCF),
        )
        for i, (share, size) in enumerate(zip(shares, sizes, strict=True))
    ]
    (row,) = compared(capsys, *uris, "--mean-of-splits")
    assert row["verdict"] == COMPARABLE
    here, low, high = map(float, re.findall(r"[\d.]+", row["here"]))
    assert here == pytest.approx(80, abs=0.01)
    width = 1.96 * np.sqrt(sum(s * (1 - s) / n for s, n in zip(shares, sizes, strict=True))) / 3 * 100
    assert (low, high) == pytest.approx((80 - width, 80 + width), abs=0.1)
    (row,) = compared(capsys, *uris[:2], "--mean-of-splits")
    assert row["verdict"] == "split: 2 of three data sets"
    assert [row["verdict"].split(";")[0] for row in compared(capsys, *uris)] == ["split: one of three"] * 3


def test_an_ensemble_is_its_row(tmp_path: Path, capsys) -> None:
    name = "crn_t3_ucf_bni_ens_flow"
    report = report_of(name, checkpoint="")
    (row,) = compared(capsys, store(tmp_path, "ensemble", report))
    assert (row["recipe"], row["verdict"]) == (name, COMPARABLE)


def test_a_number_that_two_recipes_share_is_one_row_of_their_mean(tmp_path: Path, capsys) -> None:
    """The S-Net of a CRN in Table 3: "spatial networks listed here are the average of the two CRNs"."""
    names = [f"crn_t3_ucf_bni_crn_{motion}" for motion in ("flow", "diff")]
    uris = [
        store(
            tmp_path,
            name,
            report_of(name, scores={s: {"top1": top1, "top5": 1.0} for s in ("rgb", name[-4:], "fused")}),
            as_the_paper(name),
        )
        for name, top1 in zip(names, (0.9, 0.88), strict=True)
    ]
    rows = compared(capsys, *uris)
    assert [(row["recipe"], row["net"], row["printed"]) for row in rows] == [
        (names[0], "S-Net", "90.4"),
        (names[0], "T-Net", "91.8"),
        (names[1], "T-Net", "89.5"),
    ]
    assert [row["here"].split()[0] for row in rows] == ["89.00", "90.00", "88.00"]
    assert {row["verdict"] for row in rows} == {COMPARABLE}
    shared = [row for row in compared(capsys, uris[1], "--table", "crn-3") if row["recipe"] == names[0]]
    assert [row["verdict"].partition(":")[0] for row in shared] == ["mean", "not run"]
    assert shared[0]["here"].startswith("88.00")


def test_the_mean_of_two_ensembles_is_the_papers_arithmetic(tmp_path: Path, capsys) -> None:
    name = "crn_t3_ucf_bni_ens_rgb"
    pairs = [[f"crn_t3_ucf_bni_crn_{motion}", "crn_t3_ucf_bni_ncrn_rgb"] for motion in ("flow", "diff")]

    def made(folder: str, recipes: list[str], top1: float) -> str:
        members = tuple(
            EnsembleInput(name=r, run=r, branch="rgb", recipe=r, checkpoint="c", predictions="") for r in recipes
        )
        scores = {s: {"top1": top1, "top5": 1.0} for s in (*recipes, "fused")}
        return store(tmp_path, folder, report_of(name, checkpoint="", members=members, scores=scores))

    uris = [made(f"pair{i}", pair, top1) for i, (pair, top1) in enumerate(zip(pairs, (0.92, 0.9), strict=True))]
    (row,) = compared(capsys, *uris)
    assert (row["verdict"], row["here"].split()[0], row["printed"]) == (COMPARABLE, "91.00", "91")
    for wrong in ([uris[0]], [made("three", [*pairs[0], pairs[1][0]], 0.93)]):
        (row,) = compared(capsys, *wrong)
        assert row["verdict"].startswith("mean: the paper prints that of the ensembles of crn_t3_ucf_bni_crn_flow +")


KEYS, LABELS = tuple(f"v{i}" for i in range(60)), np.arange(60) % 3


def evaluated(folder: Path, name: str, right: np.ndarray, digest: str = "d") -> Storage:
    """A run of crn_small whose answers are right where told."""
    p = np.full((60, 3), 0.2, np.float32)
    p[np.arange(60), np.where(right, LABELS, (LABELS + 1) % 3)] = 0.6
    predictions = Predictions(KEYS, LABELS, {"rgb": p, "flow": p})
    file = folder / "p.npz"
    report = report_of(
        "crn_small",
        run_id=name,
        classes=("a", "b", "c"),
        confusion=tuple(tuple(map(int, row)) for row in predictions.confusion()),
        scores=predictions.scores(),
        num_videos=60,
        manifest_digest=digest * 64,
        predictions=write_predictions(predictions, file),
    )
    run = open_storage(store(folder, name, report, find_recipe("crn_small")))
    run.write_file(report_path(report.split, report.protocol, "npz"), file)
    return run


def test_two_runs_on_the_same_videos(tmp_path: Path, capsys) -> None:
    first, second = np.arange(60) < 50, np.arange(60) % 2 == 0  # 50 and 30 right
    a, b = evaluated(tmp_path, "a", first), evaluated(tmp_path, "b", second)
    assert main([a.uri, b.uri]) == 0
    said = capsys.readouterr().out
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    p = binomtest(only_a, only_a + only_b).pvalue
    assert f"{only_a} videos only the first has right, {only_b} only the second, McNemar p {p:.3g}" in said
    assert "+33.33 points (" in said
    assert f"{a.uri} is better" in said
    assert main([a.uri, evaluated(tmp_path, "c", first).uri]) == 0
    assert "McNemar p 1: undecided" in capsys.readouterr().out
    assert main([a.uri, evaluated(tmp_path, "d", second, digest="e").uri]) == 0, "other data: nothing is paired"
    assert "McNemar" not in capsys.readouterr().out


@pytest.mark.parametrize(("few", "many"), [(0, 0), (0, 1), (3, 11), (7, 7), (40, 71), (900, 1100)])
def test_mcnemar_is_the_exact_binomial_test(few: int, many: int) -> None:
    wanted = binomtest(few, few + many).pvalue if few + many else 1.0
    assert mcnemar_p(few, many) == pytest.approx(wanted)
    assert mcnemar_p(many, few) == pytest.approx(wanted)


def test_pages_and_files(tmp_path: Path, capsys) -> None:
    run = evaluated(tmp_path, "a<b>", np.ones(60, bool))
    page = tmp_path / "c.html"
    assert main([run.uri, "--format", "html", "--out", str(page)]) == 0
    text = page.read_text()
    assert "a&lt;b&gt;" in text
    assert "a<b>" not in text
    assert not re.search(r"https?://|<script|src=", text), "the page needs nothing else"
    assert f"written to {page}" in capsys.readouterr().out
    table = tmp_path / "c.txt"
    assert main([run.uri, "--out", str(table)]) == 0
    assert re.search(r"^run +recipe +data set", table.read_text())
    with pytest.raises(
        ConfigError, match=r"^out = '.*': cannot be written \(No such file or directory\): name another"
    ):
        main([run.uri, "--out", f"{tmp_path}/none/c.txt"])


def test_refusals(tmp_path: Path) -> None:
    run = evaluated(tmp_path, "a", np.ones(60, bool))
    there = r"\(it was as test 4x1\): run `python -m jobs.evaluate"
    for args, message in (
        ([], r"^runs = \(\): name runs, or a table"),
        ([run.uri, run.uri], "^runs = .*: name each run once"),
        ([f"file://{tmp_path}/none"], "neither a run .run.json. nor an ensemble with an evaluation"),
        (
            [run.uri, "--split", "val"],
            rf"was not evaluated as val, any views {there}",
        ),
        (
            [run.uri, "--num-views", "10"],
            rf"was not evaluated as any split, 10 views {there}",
        ),
        ([run.uri, "--table", "crn-4"], "^table = 'crn-4': crn-4 has no row of crn_small"),
    ):
        with pytest.raises(UserError, match=message):
            main(args)
    run.write(RESULT, json.dumps({**RESULT_FIELDS, "checkpoint": "checkpoint_2"}).encode())
    with pytest.raises(ConfigError, match="its report is of checkpoint_1, the run ends with checkpoint_2: run"):
        main([run.uri])
