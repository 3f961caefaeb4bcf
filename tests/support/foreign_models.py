"""Models as somebody else would put them into the registry, with MLflow's client alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking.model_files import fetch_all
from pipeline.tracking.runs import address, client

# What runs leaves a file behind: the code file, and the packages that it carries.
_CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [{{"labels": ["owned"], "probabilities": [1.0]}}] * len(model_input)

mlflow.models.set_model(Model())
"""


def data_of(uri: str, folder: Path) -> Path:
    """The folder of weights and card of a registered model, fetched into a new ``folder``."""
    folder.mkdir(parents=True)
    model = fetch_all(uri, folder / "all")
    return Path(shutil.copytree(model / "artifacts" / "predictor", folder / "predictor"))


def evil_model(data: Path, folder: Path, marker: Path) -> Path:
    """A model made in ``folder``: weights and card of ``data``, and code that makes ``marker`` wherever it runs."""
    code = folder / "evil"
    for name in ("pipeline", "preprocessing"):
        (code / name).mkdir(parents=True)
        (code / name / "__init__.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    (code / "model.py").write_text(_CODE.format(marker=str(marker)))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(code))  # MLflow leaves the code's folder on the path
        mlflow.pyfunc.save_model(
            str(folder / "model"),
            python_model=str(code / "model.py"),
            artifacts={"model": str(data)},
            code_paths=[str(code / "pipeline"), str(code / "preprocessing")],
            pip_requirements=[],
        )
    marker.unlink(missing_ok=True)  # saving it ran it
    pickled = b"cposix\nsystem\n(S'touch " + bytes(marker) + b"'\ntR."
    (folder / "model" / "python_model.pkl").write_bytes(pickled)
    return folder / "model"


def register_as_anybody(name: str, model: Path, **tags: str) -> str:
    """A model's folder as the next version of ``name``, with the alias champion; returns its number."""
    mlflow.set_tracking_uri(address())
    (experiment,) = client().search_experiments(filter_string="name = 'reciprocal'")
    logged = client().create_logged_model(experiment.experiment_id, name="model")
    client().log_model_artifacts(logged.model_id, str(model))
    if not client().search_registered_models(f"name = '{name}'"):
        client().create_registered_model(name)
    version = client().create_model_version(name, f"models:/{logged.model_id}", tags=tags, model_id=logged.model_id)
    client().set_registered_model_alias(name, "champion", version.version)
    return str(version.version)
