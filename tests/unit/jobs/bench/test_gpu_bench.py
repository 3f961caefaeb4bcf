"""The bench for a GPU, tried on the CPU: it needs little besides torch, and each part fails by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.bench.command import main
from tests.support.paths import ROOT

# A machine lent for an hour has torch, Triton, numpy, numba, OpenCV without contrib, rich and pytest.
ABSENT = ("av", "boto3", "botocore", "tyro", "ray", "mlflow", "webdataset", "nvidia")
BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that lacks what a lent machine lacks, in its children too."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def bench(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.bench.gpu", "--device", "cpu", "--tiny", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_what_is_absent_cannot_be_imported(bare: dict[str, str]) -> None:
    for name in ABSENT:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], env=bare, capture_output=True, text=True)
        assert f"No module named {name!r}" in done.stderr


@pytest.mark.slow
def test_gpu_tests_are_collected_where_little_is_installed(bare: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/unit"],
        cwd=ROOT,
        env=bare,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    files = ("flow/test_gpu.py", "mrst/test_gate.py", "models/test_batchnorm.py", "training/test_host_copies.py")
    for file in (*files, "models/test_norm_relu.py"):
        assert f"{file}::" in done.stdout


@pytest.mark.slow
def test_every_part_runs_where_little_is_installed(bare: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    parts = ("card", "tvl1", "mrst", "crn", "sums", "inference", "stream")
    done = bench(bare, "--json", str(file), "--minutes", "8", "--parts", *parts)
    rows = json.loads(file.read_text())
    # No nvidia-smi and no decoder's library here: rows of their own.
    failed = [row for row in rows if "error" in row and not row["what"].startswith(("nvidia-smi", "NVDEC"))]
    assert failed == [], done.stderr
    assert {row["part"] for row in rows} == set(parts)
    assert not [row for row in rows if "skipped" in row]
    steps = [row for row in rows if row["part"] in ("mrst", "crn") and "clips_per_s" in row]
    assert len(steps) == 4 + 4
    for row in steps:
        assert row["clips_per_s"] == pytest.approx(1000 * row["batch"] / row["ms"])
        assert f"{row['part']} " in done.stdout
        assert row.get("graph_loss_apart", 0) == row.get("graph_gradient_norms_apart", 0) == 0  # the same passes


@pytest.mark.slow
def test_a_part_that_fails_or_does_not_end_costs_only_itself(bare: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "flows.npz").write_bytes(b"no archive")
    words = ("--json", str(tmp_path / "a.json"), "--flows", str(tmp_path / "flows.npz"), "--minutes", "2")
    done = bench(bare, *words, "--parts", "tvl1", "card")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert done.returncode == 1
    assert [row["error"].split(":")[0] for row in rows if row["part"] == "tvl1"] == ["exit code 1"]
    assert [row["what"] for row in rows if row["part"] == "card"][:2] == ["machine", "nvidia-smi"]
    done = bench(bare, "--json", str(tmp_path / "b.json"), "--minutes", "0.01", "--parts", "crn")
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row["error"].endswith("killed")


@pytest.mark.slow
def test_a_lost_device_costs_only_the_measurement_that_lost_it(bare: dict[str, str], tmp_path: Path) -> None:
    """A device that answers no call after the second measurement, as after a failed assertion in a kernel."""
    lost = """
import jobs.bench.gpu.settings as settings
import jobs.bench.gpu.crn as crn

def measured(config, classes, variant, found):
    if variant == crn.Variant(graph=True):
        object.__setattr__(found, "lost", True)
        raise RuntimeError("device-side assert triggered")
    return {"ms": 1.0}

def synchronise(self):
    if getattr(self, "lost", False):
        raise RuntimeError("device-side assert triggered")

crn.step_row = measured
settings.Settings.synchronise = synchronise
"""
    (tmp_path / "bare" / "lost.py").write_text(lost)
    site = tmp_path / "bare" / "sitecustomize.py"
    site.write_text(site.read_text() + "\nif any('jobs.bench.gpu.part' in a for a in sys.orig_argv): import lost\n")
    done = bench(bare, "--json", str(tmp_path / "a.json"), "--minutes", "2", "--parts", "crn")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert done.returncode == 1
    measured = [row for row in rows if "took_s" in row]
    assert ["error" in row for row in measured] == [False, False, True, False]
    assert len({row["what"] for row in measured}) == 4
    (crash,) = (row for row in rows if "took_s" not in row)
    assert crash["error"].startswith("exit code 1")
    assert "DeviceLost" in crash["error"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--json", "no/such/folder/x.json"], "its folder does not exist"),
        (["--json", "x.json", "--minutes", "0"], "must be more than 0"),
        (["--json", "x.json", "--flows", "none.npz"], "there is no such file"),
        (["--json", "x.json", "--parts", "everything"], "invalid choice"),
    ],
)
def test_wrong_input_is_refused(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["gpu", *words])
    assert stop.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
