"""Versions that somebody else put into the registry: their code is not run, and their data is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jobs.predict.command import main
from pipeline.errors import UserError
from pipeline.runs.registered import read_registration
from pipeline.serving.card import CARD, WEIGHTS
from pipeline.storage import open_storage
from pipeline.tracking.model_files import code_digest, fetch_all
from pipeline.tracking.registry import facts_of, versions
from pipeline.tracking.runs import client
from tests.support.foreign_models import data_of, evil_model, register_as_anybody
from tests.unit.jobs.predict.conftest import Registry

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*(input example|type hints)")]


def test_code_of_somebody_elses_version_is_not_run(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "it ran"
    model = evil_model(data_of("models:/tiny/1", tmp_path / "data"), tmp_path, marker)
    version = register_as_anybody("tiny", model)
    try:
        assert main(["models:/tiny@champion", str(registry.videos[0])]) == 0
        assert "owned" not in capsys.readouterr().out
        assert not marker.exists()
        with pytest.raises(UserError, match="no digest of its code is known"):
            main(["models:/tiny@champion", str(registry.videos[0]), "--code", "carried"])
        # A run of the attacker's own that vouches for the code counts no more than the version's own word.
        client().set_model_version_tag("tiny", version, "run_uri", f"file://{tmp_path}")
        with pytest.raises(UserError, match="no digest of its code is known"):
            main(["models:/tiny@champion", str(registry.videos[0]), "--code", "carried"])
        # The run that the user names has no record of this version, or one with another digest.
        named = [
            "models:/tiny@champion",
            str(registry.videos[0]),
            "--code",
            "carried",
            "--run",
            f"file://{registry.run}",
        ]
        with pytest.raises(UserError, match="no digest of its code is known"):
            main(named)
        record = registry.run / "registered" / f"tiny@{version}.json"
        shutil.copy(registry.run / "registered" / "tiny@1.json", record)
        with pytest.raises(UserError, match=r"is not what was registered of file://.*/run: code has sha256"):
            main(named)
        record.unlink()
        assert not marker.exists()
        # It would run: the test sees what it looks for.
        trusting = ["--code", "carried", "--trust-model-code"]
        main(["models:/tiny@champion", str(registry.videos[0]), *trusting])
        assert marker.exists()
    finally:
        client().set_registered_model_alias("tiny", "champion", "1")


def test_changed_code_is_refused_and_registered_code_runs(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, named = str(registry.videos[0]), ["--code", "carried", "--run", f"file://{registry.run}"]
    assert main(["models:/tiny/1", video]) == 0
    installed = capsys.readouterr().out
    assert main(["models:/tiny/1", video, *named]) == 0
    carried = capsys.readouterr().out
    assert [line for line in carried.splitlines() if "│" in line] == [
        line for line in installed.splitlines() if "│" in line
    ]

    record = read_registration(open_storage(f"file://{registry.run}"), "tiny", "1")
    assert record is not None
    model = fetch_all("models:/tiny/1", tmp_path / "copy")
    assert code_digest(model) == record.code
    with (model / "code" / "pipeline" / "errors.py").open("a") as file:
        file.write("\n# one line more\n")
    assert code_digest(model) != record.code
    register_as_anybody("changed", model, **facts_of(versions("tiny")[0]))
    registered = registry.run / "registered"
    shutil.copy(registered / "tiny@1.json", registered / "changed@1.json")
    with pytest.raises(UserError, match=r"code has sha256 .*; --trust-model-code runs it all the same"):
        main(["models:/changed@champion", video, *named])


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_other_weights_or_another_card_than_registered_are_refused(
    registry: Registry, tmp_path: Path, file: str
) -> None:
    predictor = data_of("models:/tiny/1", tmp_path / "data")
    if file == WEIGHTS:
        weights = safetensors.torch.load_file(predictor / WEIGHTS)
        name = next(name for name in weights if name.endswith("fc.weight"))
        safetensors.torch.save_file({**weights, name: torch.flip(weights[name], (0,))}, predictor / WEIGHTS)
    else:
        card = json.loads((predictor / CARD).read_text())
        (predictor / CARD).write_text(json.dumps({**card, "classes": card["classes"][::-1]}))
    model = tmp_path / "data" / "all"
    model = next(path.parent for path in model.rglob("MLmodel"))
    shutil.copytree(predictor, model / "artifacts" / "predictor", dirs_exist_ok=True)
    # The tags are copied from an honest version, as whoever may write to the registry can.
    name = f"forged-{file.split('.')[0]}"
    number = register_as_anybody(name, model, **facts_of(versions("tiny")[0]))
    shutil.copy(registry.run / "registered" / "tiny@1.json", registry.run / "registered" / f"{name}@{number}.json")
    with pytest.raises(UserError, match=rf"is not what was registered of file://.*: {file} has sha256"):
        main([f"models:/{name}@champion", str(registry.videos[0])])


def test_a_version_without_a_record_is_compared_with_its_runs_checkpoint(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As versions have none that were registered before there were records."""
    predictor = data_of("models:/tiny/1", tmp_path / "data")
    model = next(path.parent for path in (tmp_path / "data" / "all").rglob("MLmodel"))
    tags = facts_of(versions("tiny")[0])
    register_as_anybody("older", model, **tags)
    assert main(["models:/older@champion", str(registry.videos[0])]) == 0
    weights = safetensors.torch.load_file(predictor / WEIGHTS)
    name = next(name for name in weights if name.endswith("fc.bias"))
    safetensors.torch.save_file({**weights, name: weights[name] + 1}, predictor / WEIGHTS)
    shutil.copytree(predictor, model / "artifacts" / "predictor", dirs_exist_ok=True)
    register_as_anybody("older", model, **tags)
    with pytest.raises(UserError, match=f"is not what was registered of file://.*: {WEIGHTS} has sha256"):
        main(["models:/older@champion", str(registry.videos[0])])
    # Its run is gone: nobody vouches for it, and that is said.
    register_as_anybody("older", model, run_uri=f"file://{tmp_path}/gone")
    assert main(["models:/older@champion", str(registry.videos[0])]) == 0
    assert "models:/older/3 is compared with no run" in caplog.text
