"""Models registered by older code: they name modules by old names and carry a copy of the packages as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking.registry import SIGNATURE
from tests.support.paths import ROOT

# The code file of models that were registered when the predictor was pipeline/predict.py.
MODEL_CODE = """
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
    code_file.write_text(MODEL_CODE)
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
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore:.*input example")
@pytest.mark.slow
def test_predict_runs_an_older_model_with_the_code_of_this_installation(
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
