"""``python -m jobs.ensemble`` on run folders whose predictions are made up, so that numpy knows every number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from jobs.ensemble import command as ensemble_job
from jobs.ensemble.command import EnsembleArgs, ensemble
from jobs.ensemble.members import parse_member
from jobs.recipes import find_recipe
from pipeline.config.base import as_dict
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.runs.folder import RESULT, RUN, RunRecord
from pipeline.storage import Storage, open_storage
from pipeline.tracking.runs import address

pytestmark = pytest.mark.slow

CLASSES = tuple(f"class_{i}" for i in range(8))
KEYS = tuple(f"v{i:02}" for i in range(40))
LABELS = np.arange(40) % 8


def probabilities(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(8), 40) + 0.5 * np.eye(8)[LABELS] * rng.random((40, 1))
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass
class Runs:
    """Makes folders as jobs.train and jobs.evaluate leave them."""

    base: Path

    def uri(self, name: str) -> str:
        return f"file://{self.base}/runs/{name}"

    def make(
        self,
        name: str,
        recipe: str,
        seed: int,
        *,
        folder: str = "",
        split: str = "test",
        protocol: str = "4x1",
        digest: str = "d" * 64,
        fused: bool = False,
    ) -> Storage:
        run = open_storage(self.uri(folder or name))
        config = find_recipe(recipe)
        run.write(
            RUN,
            json.dumps(
                dataclasses.asdict(
                    RunRecord(config=as_dict(config), identity={}, manifest_digest=digest, code_version="v")
                )
            ).encode(),
        )
        run.write(
            RESULT,
            json.dumps({"checkpoint": "checkpoint_1", "metrics": {}, "seconds": 1.0, "tracking_run_id": "t"}).encode(),
        )
        branches = ("fused",) if fused else config.model.modalities
        predictions = Predictions(KEYS, LABELS, {b: probabilities(seed + i) for i, b in enumerate(branches)})
        file = self.base / "p.npz"
        report = EvalReport(
            run_id=name,
            model=recipe,
            modalities=config.model.modalities,
            dataset="made",
            manifest_digest=digest,
            split=split,
            protocol=protocol,
            num_videos=40,
            num_damaged=0,
            classes=CLASSES,
            scores=predictions.scores(),
            per_class=tuple(predictions.per_class()),
            confusion=tuple(tuple(map(int, row)) for row in predictions.confusion()),
            checkpoint="checkpoint_1",
            code_version="v",
            seconds=1.0,
            predictions=write_predictions(predictions, file),
        )
        run.write_file(report_path(split, protocol, "npz"), file)
        run.write(report_path(split, protocol), report.to_json().encode())
        return run


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def top(p: np.ndarray, k: int) -> float:
    return float(top_k_accuracy_score(LABELS, p, k=k, labels=np.arange(8)))


def scored(p: np.ndarray) -> Any:
    """All scores of one prediction, by scikit-learn."""
    return pytest.approx(
        {"top1": top(p, 1), "top5": top(p, 5), "mean_class": balanced_accuracy_score(LABELS, p.argmax(1))}
    )


@pytest.mark.parametrize(
    ("text", "run", "branch"),
    [
        ("crn-demo-1:rgb", "crn-demo-1", "rgb"),
        ("crn-demo-1", "crn-demo-1", ""),
        ("s3://bucket/runs/x", "s3://bucket/runs/x", ""),
        ("s3://bucket/runs/x:diff-online", "s3://bucket/runs/x", "diff-online"),
        ("file:///a:b/x:all", "file:///a:b/x", "all"),
        ("file:///a:b/x", "file:///a:b/x", ""),
    ],
)
def test_words_of_the_command_line(text: str, run: str, branch: str) -> None:
    assert parse_member(text) == (run, branch)


@pytest.mark.parametrize("text", ["run:rbg", "s3://bucket/runs/x:spatial", ":rgb", "run:"])
def test_words_that_name_no_branch(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"give RUN or RUN:BRANCH with one of all, rgb, flow, diff, diff-online, fused"
    ):
        parse_member(text)


def test_a_row_of_the_paper_and_its_page(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = runs.make("a", "crn_t3_ucf_bni_crn_flow", 1).uri
    b = runs.make("b", "crn_t3_ucf_bni_ncrn_flow", 5).uri
    monkeypatch.setattr("sys.argv", ["ensemble", a, b, "--recipe", "crn_t3_ucf_bni_ens_flow"])
    assert ensemble_job.main() == 0
    printed = capsys.readouterr().out
    flow_a, flow_b = probabilities(2), probabilities(5)
    mean = (flow_a.astype(float) + flow_b) / 2
    report, folder, page = ensemble(
        EnsembleArgs((b, a), recipe="crn_t3_ucf_bni_ens_flow")
    )  # the order of words says nothing
    tracking_id = page.tracking_run_id
    assert folder.startswith(runs.uri("ensembles/crn-t3-ucf-bni-ens-flow-"))
    assert report.scores == {"a:flow": scored(flow_a), "b:flow": scored(flow_b), "fused": scored(mean)}
    assert report.modalities == ("flow",)
    best = max(top(flow_a, 1), top(flow_b, 1))
    assert f"{top(mean, 1):.4f}" in printed
    assert f"{100 * (top(mean, 1) - best):+.2f} points" in printed
    assert f"T-Net: 92.20 %, here {100 * top(mean, 1):.2f} %" in printed
    stored = open_storage(folder)
    assert EvalReport.from_json(stored.read("evaluations/test_4x1.json").decode()) == report
    assert stored.read("evaluations/test_4x1.png").startswith(b"\x89PNG")

    found = mlflow.MlflowClient(address()).get_run(tracking_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["kind"] == "ensemble"
    assert {found.data.tags["member_1"], found.data.tags["member_2"]} == {f"{a}:flow", f"{b}:flow"}
    assert found.data.metrics["test/top1_4x1"] == report.top1
    assert found.data.metrics["test/a:flow/top1_4x1"] == top(flow_a, 1)
    assert {f.path for f in mlflow.MlflowClient(address()).list_artifacts(tracking_id, "evaluation")} == {
        "evaluation/test_4x1.json",
        "evaluation/confusion_test_4x1.png",
        "evaluation/classes_test_4x1.csv",
        "evaluation/page_test_4x1.html",
    }
    assert f"{report.score_text('fused', 'top1')}" in found.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_reuse_and_what_ends_it(runs: Runs) -> None:
    args = EnsembleArgs((runs.make("a", "crn_t4_ucf_bni_crn", 1).uri, runs.make("b", "crn_t4_ucf_bni_ncrn", 5).uri))
    first, folder, page = ensemble(args)
    tracking_id = page.tracking_run_id
    assert [m.name for m in first.members] == ["a:flow", "a:rgb", "b:flow", "b:rgb"]
    mean = np.mean([probabilities(seed).astype(float) for seed in (1, 2, 5, 6)], axis=0)
    assert first.scores["fused"] == scored(mean)
    written = open_storage(folder).version(report_path("test", "4x1"))
    second, second_folder, second_page = ensemble(args)
    assert (second, second_folder, second_page.tracking_run_id) == (first, folder, tracking_id)
    assert open_storage(folder).version(report_path("test", "4x1")) == written
    mlflow.MlflowClient(address()).delete_run(
        tracking_id
    )  # another tracking server: the report is told again, not made again
    again, _, other = ensemble(args)
    assert again == first
    assert other.tracking_run_id != tracking_id
    found = mlflow.MlflowClient(address()).get_run(other.tracking_run_id)
    assert (found.info.status, found.data.metrics["test/top1_4x1"]) == ("FINISHED", first.top1)
    runs.make("b", "crn_t4_ucf_bni_ncrn", 50)  # evaluated again, with other weights say
    third, same_folder, _ = ensemble(args)
    assert same_folder == folder
    assert third.scores["b:rgb"]["top1"] == top(probabilities(50), 1)


@pytest.mark.slow
def test_runs_of_one_name_and_a_fused_net(runs: Runs) -> None:
    a, same = (
        runs.make("a", "crn_t4_ucf_bni_early", 1, fused=True).uri,
        runs.make("a", "crn_t4_ucf_bni_crn", 5, folder="elsewhere/a").uri,
    )
    report, _, _ = ensemble(EnsembleArgs((f"{a}:fused", f"{same}:rgb"), output=f"file://{runs.base}/out"))
    assert [m.name for m in report.members] == ["a:fused", "a:rgb"]
    assert report.modalities == ("rgb", "flow")
    twins, folder, _ = ensemble(
        EnsembleArgs(
            (runs.make("t", "rgb_demo", 1, folder="x/t").uri, runs.make("t", "rgb_demo", 9, folder="y/t").uri),
            output=f"file://{runs.base}/out",
        )
    )
    assert [m.name for m in twins.members] == ["t:rgb.1", "t:rgb.2"]
    assert folder.startswith(f"file://{runs.base}/out/ensemble-")


def refused(text: str, *words: str, **fields: object) -> None:
    with pytest.raises(UserError) as caught:
        ensemble(EnsembleArgs(words, **fields))  # type: ignore[arg-type]
    assert text in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_inputs_that_cannot_be_averaged_are_refused(runs: Runs) -> None:
    a, b = runs.make("a", "crn_t4_ucf_bni_crn", 1).uri, runs.make("b", "crn_t4_ucf_bni_ncrn", 5).uri
    single = runs.make("single", "crn_t3_ucf_bni_ncrn_rgb", 9).uri
    refused("runs = []: give two or more nets")
    refused("give two or more nets", single)
    refused("name each net once", a, f"{a}:rgb")
    refused("the branches of crn_t4_ucf_bni_crn are rgb, flow: use one of them, or all", f"{a}:diff", b)
    refused("run.json is missing", runs.uri("none"), b)
    refused(f"it has no evaluations/val_4x1.json: run `python -m jobs.evaluate {a} --split val`", a, b, split="val")
    refused(
        f"it has no evaluations/test_10x3.json: run `python -m jobs.evaluate {a} --split test --num-views 10"
        " --num-crops 3`",
        a,
        b,
        num_views=10,
        num_crops=3,
    )
    refused("manifest_digest = 'eeeeeeeeeeee'", a, runs.make("e", "crn_t4_ucf_bni_ncrn", 5, digest="e" * 64).uri)
    refused("protocol = '20x1'", a, runs.make("m", "mrst_demo", 5, protocol="20x1").uri)
    with pytest.raises(ConfigError, match="num_views = -1"):
        EnsembleArgs((a, b), num_views=-1)


def test_evaluations_of_older_code_and_damaged_files(runs: Runs) -> None:
    a, b = runs.make("a", "crn_t4_ucf_bni_crn", 1), runs.make("b", "crn_t4_ucf_bni_ncrn", 5)
    path = report_path("test", "4x1")
    whole = a.read(path)
    a.write(path, dataclasses.replace(EvalReport.from_json(whole.decode()), predictions="").to_json().encode())
    refused(
        f"was written by code that kept no predictions: run `python -m jobs.evaluate {a.uri} --split test --again`",
        a.uri,
        b.uri,
    )
    a.write(
        path, dataclasses.replace(EvalReport.from_json(whole.decode()), checkpoint="checkpoint_0").to_json().encode()
    )
    refused("is of checkpoint_0, but the run ends with checkpoint_1: run `python -m jobs.evaluate", a.uri, b.uri)
    a.write(path, whole)
    a.write(report_path("test", "4x1", "npz"), b.read(report_path("test", "4x1", "npz")))
    refused(
        f"the stored predictions do not match the report's sha256): run `python -m jobs.evaluate {a.uri} --split test"
        " --again`",
        a.uri,
        b.uri,
    )
    a.delete(report_path("test", "4x1", "npz"))
    refused("--again", a.uri, b.uri)
    a.delete(RESULT)
    refused("has not finished", a.uri, b.uri)


@pytest.mark.slow
def test_rows_of_the_paper_are_checked(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    crn, own = runs.make("crn", "crn_t3_ucf_bni_crn_flow", 1).uri, runs.make("own", "crn_t3_ucf_bni_ncrn_rgb", 5).uri
    refused(
        "recipe = 'crn_t3_ucf_bni_ens_rbg': unknown: did you mean crn_t3_ucf_bni_ens_rgb",
        crn,
        own,
        recipe="crn_t3_ucf_bni_ens_rbg",
    )
    refused("a training recipe, not an ensemble", crn, own, recipe="crn_t3_ucf_bni_crn_flow")
    refused(
        "it is a run of crn_t3_ucf_bni_ncrn_rgb; crn_t3_ucf_bni_ens_flow averages",
        crn,
        own,
        recipe="crn_t3_ucf_bni_ens_flow",
    )
    refused("crn_t3_ucf_bni_ens_rgb takes branch rgb of it", f"{crn}:flow", own, recipe="crn_t3_ucf_bni_ens_rgb")
    refused(
        "all are runs of crn_t3_ucf_bni_crn_flow, of which",
        crn,
        runs.make("c", "crn_t3_ucf_bni_crn_flow", 3).uri,
        own,
        recipe="crn_t3_ucf_bni_ens_rgb",
    )
    report, _, _ = ensemble(EnsembleArgs((crn, own), recipe="crn_t3_ucf_bni_ens_rgb"))
    assert "averages crn_t3_ucf_bni_crn_diff too; here it is left out" in caplog.text
    assert [m.name for m in report.members] == ["crn:rgb", "own:rgb"]
    # Table 1 has the same training; the one on another data set, whose fields are the same, is not it.
    twin = runs.make("twin", "crn_t1_ucf_bni_rib_flow", 7).uri
    ensemble(EnsembleArgs((twin, own), recipe="crn_t3_ucf_bni_ens_rgb"))
    refused(
        "it is a run of crn_t1_hmdb_bni_rib_flow",
        runs.make("h", "crn_t1_hmdb_bni_rib_flow", 7).uri,
        own,
        recipe="crn_t3_ucf_bni_ens_rgb",
    )
