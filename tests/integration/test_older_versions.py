"""What version 0.1 wrote is verified, resumed, evaluated and predicted with by this version: tests/data/README.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.config.train import config_from_dict
from pipeline.runs.folder import open_run, read_result
from pipeline.tracking.pages import find_or_make, page_record
from tests.support.paths import ROOT
from tests.support.without_ray import trained

PLACEHOLDER = "/reciprocal-0.1"
# As they were given to version 0.1, the flag that has another name since then included.
COMMAND = (
    *("crn_demo", "--run.num-workers", "1", "--data.batch-size", "8", "--model.width", "0.03125"),
    *("--model.backbone-stages", "3", "--model.hidden", "8", "--model.adapted", "8", "--model.num-steps", "4"),
    *("--clip.num-frames", "4", "--clip.crop", "24", "--clip.resize", "28", "--run.checkpoint-epochs", "1"),
    *("--run.keep-checkpoints", "1", "--run.log-steps", "1", "--data.loader", "ffmpeg", "--data.micro-batch", "4"),
)

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked files, with paths as if they had been written here."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "data" / "made_by_0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace(PLACEHOLDER, str(folder)))
    # MLflow's database did not travel with the runs: the finished one gets a page here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(folder / "home"))
        patch.setenv("RECIPROCAL_STACK", "off")
        tracking_id = find_or_make(page_record("reciprocal", "finished", {}, {})).info.run_id
    path = folder / "runs" / "finished" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tracking_run_id": tracking_id}))
    return folder


def run(old: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A command without a stack: files, a private Ray, MLflow as a database file."""
    env = {**os.environ, "RECIPROCAL_STACK": "off", "RECIPROCAL_HOME": str(old / "home")}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )


def weights(run_uri: str) -> dict[str, torch.Tensor]:
    """Of a finished run's last checkpoint."""
    folder = open_run(run_uri)
    return safetensors.torch.load(folder.read(f"{read_result(folder)['checkpoint']}/model.safetensors"))


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Euclidean, over all that is learned: running statistics of batches are not."""
    learned = [name for name in a if "running_" not in name and "num_batches" not in name]
    return sum(((a[name].double() - b[name].double()) ** 2).sum().item() for name in learned) ** 0.5


def test_the_data_set_has_no_fault(old: Path) -> None:
    done = run(old, "jobs.verify", f"file://{old}/set")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stopped_run_is_resumed_and_ends_as_one_that_was_never_stopped(old: Path, tmp_path: Path) -> None:
    common = (*COMMAND, "--data.uri", f"file://{old}/set", "--optim.epochs", "6")
    (stopped,) = (old / "runs" / "stopped").rglob("model.safetensors")
    before = safetensors.torch.load(stopped.read_bytes())
    resumed = run(old, "jobs.train", *common, "--run.run-id", "stopped")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    output = resumed.stdout + resumed.stderr
    assert "epoch 5 step 3/3" in output
    assert "epoch 4 step" not in output, "a finished epoch was trained again"
    ours, theirs = weights(f"file://{old}/runs/stopped"), trained(common, tmp_path)
    assert ours.keys() == theirs.keys()
    # Five epochs of the old version and one of this against six of this. Another processor may have trained the five,
    # and Adam lets its rounding grow: so the sixth epoch must account for nearly all that the run still lacked.
    left, lacked = distance(ours, theirs), distance(before, theirs)
    print(f"distance of weights: {lacked:.3g} before the last epoch, {left:.3g} after it")
    assert left < 0.25 * lacked


def test_a_finished_run_is_left_alone_by_its_own_command(old: Path) -> None:
    result = old / "runs" / "finished" / "result.json"
    before = result.read_bytes()
    common = (*COMMAND, "--data.uri", f"file://{old}/set", "--optim.epochs", "2")
    done = run(old, "jobs.train", *common, "--run.run-id", "finished")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do" in done.stdout
    assert result.read_bytes() == before


def test_a_finished_run_is_evaluated_with_the_same_result(old: Path) -> None:
    folder = old / "runs" / "finished" / "evaluations"
    report, arrays = json.loads((folder / "test_4x1.json").read_text()), np.load(folder / "test_4x1.npz")
    before = {name: arrays[name] for name in arrays.files}
    done = run(old, "jobs.evaluate", f"file://{old}/runs/finished", "--split", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "test_4x1.json").read_text()) == report, "it was there: nothing is computed again"
    again = run(old, "jobs.evaluate", f"file://{old}/runs/finished", "--split", "test", "--again")
    assert again.returncode == 0, again.stdout + again.stderr
    new = json.loads((folder / "test_4x1.json").read_text())
    assert all(new["scores"][stream].pop("mean_class") > 0 for stream in new["scores"])
    added = {"intervals", "calibration"}
    assert new.keys() - report.keys() == added
    changing = {"seconds", "code_version", "predictions", *added}  # predictions: a hash of the file below
    assert {k: v for k, v in new.items() if k not in changing} == {k: v for k, v in report.items() if k not in changing}
    for name, values in np.load(folder / "test_4x1.npz").items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, before[name], atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_configs_are_read_whole(old: Path) -> None:
    for path in (*old.glob("runs/*/run.json"), *old.glob("runs/*/checkpoint_*/state.json")):
        fields = json.loads(path.read_text())
        config = config_from_dict(fields["config"])
        assert config.data.decoder == "ffmpeg"
        assert config.data.micro_batch == 4
        assert config.identity() == fields["identity"], "the same run has another identity"


def test_a_registered_model_answers_as_it_did(old: Path) -> None:
    done = run(old, "jobs.predict", str(old / "model"), str(old / "video.mp4"))
    assert done.returncode == 0, done.stdout + done.stderr
    expected: dict[str, float] = json.loads((old / "predicted.json").read_text())
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines() if line.startswith("│")]
    found = {name: float(probability) for name, probability in rows}
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=2e-3)
