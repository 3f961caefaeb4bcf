"""A registered model's requirements are all that prediction imports: a machine may have nothing else."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from pipeline.serving.predictor import REQUIREMENTS, pack
from tests.support.finished_run import small_crn, small_state
from tests.support.paths import ROOT

_PROGRAM = """
import sys
from pathlib import Path

class Without:
    '''A finder that does not find some modules.'''

    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder, set(sys.argv[3:])) for finder in sys.meta_path]
from pipeline.serving.predictor import load_predictor
((labels, probabilities),) = load_predictor(Path(sys.argv[1]))([Path(sys.argv[2]).read_bytes()])
print(len(labels), sum(probabilities))
"""


def needed_by(distribution: str, known: set[str]) -> set[str]:
    """A distribution and all that it asks for, whatever the platform."""
    name = re.sub(r"[-_.]+", "-", distribution).lower()
    if name in known:
        return known
    known.add(name)
    try:
        asked = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return known
    for requirement in asked:
        if "extra ==" not in requirement:
            needed_by(re.split(r"[^\w.-]", requirement, maxsplit=1)[0], known)
    return known


@pytest.mark.slow
def test_prediction_imports_nothing_but_its_requirements(tiny_set: str, tmp_path: Path) -> None:
    config, weights = small_crn(tiny_set)
    safetensors.torch.save_file(weights, tmp_path / "raw.safetensors")
    folder = tmp_path / "predictor"
    folder.mkdir()
    pack(folder, tmp_path / "raw.safetensors", small_state(tiny_set, config), num_views=1)
    video = next((Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4"))
    allowed: set[str] = {"reciprocal"}
    for requirement in REQUIREMENTS:
        needed_by(requirement, allowed)
    others = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", name).lower() for name in owners} & allowed
    ]
    assert {"ray", "mlflow", "boto3", "pytest"} <= set(others)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(video), *others],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    classes, total = done.stdout.split()
    assert int(classes) == 4
    assert float(total) == pytest.approx(1)
