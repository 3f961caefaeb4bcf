"""Models registered by older code: their card and weights are read, and the copy of the packages that they carry is not
run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking.registry import SIGNATURE
from tests.support.paths import ROOT

# The code file of models that were registered when the predictor was pipeline/predict.py; it says when it runs.
MODEL_CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from pipeline.predict import load_predictor
from pipeline.tracking.registry import serve

serve(load_predictor)
"""
# In the carried copy `preprocessing.flow` is a module, where today it is a package; neither may be imported.
CARRIED = {
    "pipeline/__init__.py": "",
    "pipeline/predict.py": "raise RuntimeError('the carried pipeline.predict ran')",
    "preprocessing/__init__.py": "raise RuntimeError('the carried preprocessing ran')",
    "preprocessing/flow.py": "raise RuntimeError('the carried preprocessing.flow ran')",
}


@pytest.fixture
def older_model(packed: tuple[Path, object, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model as MLflow stores it, with older code inside."""
    for name, text in CARRIED.items():
        path = tmp_path / "carried" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code_file = tmp_path / "registered_model.py"
    code_file.write_text(MODEL_CODE.format(marker=str(tmp_path / "it ran")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with monkeypatch.context() as local:
        local.setattr(sys, "path", list(sys.path))  # MLflow runs the code file and leaves its folder on the path
        mlflow.pyfunc.save_model(
            str(tmp_path / "model"),
            python_model=str(code_file),
            artifacts={"model": str(packed[0])},
            code_paths=[str(tmp_path / "carried" / name) for name in ("pipeline", "preprocessing")],
            pip_requirements=[],
            signature=SIGNATURE,
        )
    (tmp_path / "it ran").unlink()  # saving runs it
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore:.*input example")
@pytest.mark.slow
def test_an_older_model_answers_with_the_code_of_this_installation_alone(
    older_model: Path, tiny_set: str, tmp_path: Path
) -> None:
    video = next((Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4"))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.predict", str(older_model), str(video)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"RECIPROCAL_HOME": str(tmp_path / "home"), "COLUMNS": "200"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(video) in done.stdout
    assert "probability" in done.stdout
    assert not (tmp_path / "it ran").exists()


@pytest.mark.filterwarnings("ignore:.*input example")
@pytest.mark.slow
def test_the_code_file_of_an_older_model_finds_the_predictor_under_its_old_name(
    older_model: Path, packed: tuple[Path, object, object], tmp_path: Path
) -> None:
    """Where somebody loads it through MLflow in a process that has this project imported."""
    code = (
        "import sys, mlflow, pipeline.predict, pipeline.tracking.registry\n"
        f"mlflow.pyfunc.load_model({str(older_model)!r})\nprint('loaded')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240, check=False
    )
    assert done.stdout.strip() == "loaded", done.stderr
