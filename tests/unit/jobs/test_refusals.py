"""Wrong input: one clear line and exit code 2, before any work starts. The cases that need servers are in
tests/integration.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.evaluate import command as evaluate_job
from jobs.predict import command as predict_job
from jobs.promote import command as promote_job
from jobs.recipes import RECIPES, find_recipe
from jobs.train import command as train_job
from pipeline.config.base import as_dict
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import TrainConfig, config_from_dict
from pipeline.dataset.manifest import MANIFEST, read_manifest
from pipeline.errors import ConfigError, UserError
from pipeline.runs.folder import RunRecord, default_output, default_run_id, start_or_resume
from pipeline.storage import open_storage
from tests.support.paths import ROOT


def command(*args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *args], capture_output=True, text=True, env=env, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_refusal_is_one_line_and_code_2() -> None:
    done = command("jobs.train", "crn_dmo")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "error: unknown recipe 'crn_dmo': did you mean crn_demo, rgb_demo, mrst_demo? `python -m jobs.train --list`"
        " shows all"
    )
    assert done.stdout == ""


@pytest.mark.slow
def test_an_unknown_field_is_code_2_and_named() -> None:
    done = command("jobs.train", "crn_demo", "--optim.learning-rate", "1")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: Unrecognized options: --optim\.learning-rate.*--help lists all fields", done.stderr.strip()
    )


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--optim.lr", "abc"], "could not convert string to float: 'abc'; --help lists all fields"),
        (["--model.partner", "nobody"], "partner.*(other|self)"),
        (["--nothing"], "Unrecognized options: --nothing"),
    ],
)
def test_values_of_the_wrong_kind_are_one_line(args: list[str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        train_job.main(["crn_demo", *args])
    assert re.search(text, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_job.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_and_survive_json(name: str) -> None:
    config = find_recipe(name)
    assert config.recipe == name
    assert (RECIPES[name].__doc__ or "").strip()
    assert config_from_dict(json.loads(json.dumps(as_dict(config)))) == config


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "data.uri = '': give the data set"),
        (["--data.uri", "/plain"], "give s3://BUCKET/PREFIX or file:///FOLDER"),
        (["--data.uri", "SET", "--data.batch-size", "15"], "2 ranks .* cannot divide it; use 14 or 16"),
        (
            ["--data.uri", "SET", "--run.num-workers", "64"],
            "64 ranks .* use 64 with optim.reference_batch 16, so that the learning rates follow, or at most 16 ranks",
        ),
        (
            ["--data.uri", "SET", "--run.sync-batchnorm", "--run.use-gpu", "no"],
            "run.sync_batchnorm = True: ranks",
        ),
        (["--data.uri", "SET", "--clip.num-frames", "5"], "must equal model.num_steps = 8"),
        (
            ["--data.uri", "SET", "--data.val-split", "dev"],
            "data.val_split = 'dev': use one of the manifest's splits: train, val, test, or .* data.val_share 0.1",
        ),
        (
            ["--data.uri", "SET", "--data.manifest-digest", "0000"],
            "give that digest, or the folder of the version meant",
        ),
        (
            ["--data.uri", "SET", "--clip.resize", "256", "--clip.crop", "64"],
            r"clip.resize = 256: views of short side 256 px would .* at most 64, .* \(and a clip.crop of at most 16\)",
        ),
        (["--data.uri", "SET/elsewhere"], "no data set is finished there"),
        (["--data.uri", "SET", "--run.output", "relative"], "run.output = 'relative'"),
        (["--data.uri", "SET", "--optim.lr", "-1"], "optim.lr = -1.0: must be positive"),
        (
            ["--data.uri", "SET", "--model.rib", "none", "--model.num-steps", "1", "--clip.num-frames", "1"],
            "model.num_steps",
        ),
    ],
)
def test_train_refuses_what_cannot_work_before_any_worker(args: list[str], text: str, tiny_set: str) -> None:
    with pytest.raises(UserError) as caught:
        train_job.main(["crn_demo", *(a.replace("SET", tiny_set) for a in args)])
    assert re.search(text, str(caught.value)), str(caught.value)


def test_a_class_without_training_samples_is_refused(tiny_set: str, tmp_path: Path) -> None:
    source, storage = open_storage(tiny_set), open_storage(f"file://{tmp_path}/set")
    manifest = read_manifest(source)
    for path in source.list():
        storage.write(path, source.read(path))
    storage.write(MANIFEST, dataclasses.replace(manifest, classes=(*manifest.classes, "never_seen")).to_json())
    with pytest.raises(UserError, match="1 of 5 classes have no sample in split 'train': never_seen"):
        train_job.main(["rgb_demo", "--data.uri", storage.uri])


def test_a_run_goes_on_only_as_the_same_run(tiny_set: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        find_recipe("crn_demo"), data=dataclasses.replace(find_recipe("crn_demo").data, uri=tiny_set)
    )
    run = open_storage(f"file://{tmp_path}/run")

    def record(config: TrainConfig, digest: str = "d" * 64) -> RunRecord:
        return RunRecord(config=as_dict(config), identity=config.identity(), manifest_digest=digest, code_version="v")

    assert start_or_resume(run, record(config)) is False
    assert start_or_resume(run, record(config)) is True
    more_ranks = dataclasses.replace(config, run=dataclasses.replace(config.run, num_workers=4))
    assert start_or_resume(run, record(more_ranks)) is True
    other_lr = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.5))
    with pytest.raises(ConfigError, match=r"optim\.lr = 0\.5: .*started with 0\.002; give another --run\.run-id"):
        start_or_resume(run, record(other_lr))
    with pytest.raises(ConfigError, match="trained on manifest dddddddddddd"):
        start_or_resume(run, record(config, "e" * 64))
    assert default_run_id(config, "d") == default_run_id(more_ranks, "d") != default_run_id(other_lr, "d")


def test_where_runs_go() -> None:
    assert default_output("s3://bucket/a/b") == "s3://bucket/runs"
    assert default_output("file:///x/set") == "file:///x/runs"


def test_runs_that_do_not_exist(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/none"
    with pytest.raises(UserError, match=r"is not a run: run\.json is missing"):
        evaluate_job.evaluate(evaluate_job.EvaluateArgs(uri))
    with pytest.raises(UserError, match="is not a run"):
        promote_job.promote(promote_job.PromoteArgs(uri, "m"))
    with pytest.raises(UserError, match="give the run's full URI"):
        evaluate_job.evaluate(evaluate_job.EvaluateArgs("some-run"))


def test_promote_and_predict_check_their_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MLflow reserves latest"):
        promote_job.PromoteArgs("r", "m", alias="latest")
    with pytest.raises(ConfigError, match="without / and :"):
        promote_job.PromoteArgs("r", "a/b")
    with pytest.raises(UserError, match="no such file"):
        predict_job.predict(predict_job.PredictArgs("models:/m/1", (tmp_path / "x.mp4",)))


def test_fields_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="a single stream has no other branch"):
        CRNConfig(modalities=("rgb",))
    with pytest.raises(ConfigError, match="MRST-Net takes one modality"):
        MRSTConfig(modalities=("rgb", "flow"))
