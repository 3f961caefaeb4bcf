"""``python -m jobs.promote`` from one run whose report changes: who becomes champion, candidate, and the way back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.cards import describe
from jobs.promote.command import PromoteArgs, main, promote
from pipeline.common.cli import console
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.storage import Storage, open_storage
from pipeline.tracking.registry import aliased_version
from pipeline.tracking.runs import TrackingError
from tests.support.finished_run import finished_run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    return open_storage(finished_run(tmp_path / "run", tiny_set))


def score(run: Storage, top1: float) -> None:
    """The run is evaluated again, with this top-1."""
    path = report_path("test", "2x1")
    report = EvalReport.from_json(run.read(path))
    scores = {name: {"top1": top1, "top5": 1.0} for name in report.scores}
    run.write(path, dataclasses.replace(report, scores=scores).to_json().encode())


def holders() -> tuple[str | None, str | None]:
    """Versions that are champion and candidate."""
    found = [aliased_version("tiny", alias) for alias in ("champion", "candidate")]
    return tuple(version.version if version else None for version in found)  # type: ignore[return-value]


def test_champions_candidates_and_the_way_back(run: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    words = [run.uri, "--name", "tiny", "--num-views", "2"]
    assert main(words) == 0
    assert holders() == ("1", None)
    score(run, 0.25)
    assert main(words) == 3
    assert holders() == ("1", "2")
    assert "tiny@candidate is version 2" in capsys.readouterr().out
    score(run, 0.625)
    assert main([*words, "--min-gain", "0.2"]) == 3
    assert "a gain of 0.1250, and at least 0.2 is asked for" in capsys.readouterr().out
    assert main([*words, "--min-gain", "0.125"]) == 0  # the version is registered already
    assert holders() == ("3", None)
    score(run, 0.25)
    assert main([*words, "--force"]) == 0
    assert holders() == ("2", None)
    assert main(["--rollback", "tiny"]) == 0
    assert main(["--rollback", "tiny"]) == 0
    assert holders() == ("1", None)
    capsys.readouterr()
    with pytest.raises(UserError, match="nothing to roll back to"):
        main(["--rollback", "tiny"])
    assert main(["--history", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    moves = [tuple(line.split("│")[i].strip() for i in (1, 3)) for line in lines if "UTC" in line]
    assert moves == [
        ("1", "rolled back"),
        ("3", "rolled back"),
        ("2", "forced"),
        ("3", "promoted"),
        ("1", "promoted"),
    ]
    assert main(["--history", "tiny", "--alias", "other"]) == 0
    assert "no version has held tiny@other" in capsys.readouterr().out


def test_words_that_do_not_go_together_are_refused() -> None:
    for args, text in (
        ({}, "run = '': give a run to register, or --rollback NAME"),
        ({"run": "r"}, "name = '': give a model name"),
        ({"run": "r", "rollback": "m"}, "rollback = 'm': leave out run: it takes the model's name alone"),
        ({"name": "m", "history": "m"}, "history = 'm': leave out name"),
        ({"rollback": "m", "history": "m"}, "rollback = 'm': leave out history"),
        ({"rollback": "a/b"}, "name = 'a/b': give a model name without / and :"),
        ({"run": "r", "name": "m", "min_gain": 1.0}, r"min_gain = 1\.0: must be in \[0, 1\): 0\.01 is one point"),
        ({"run": "r", "name": "m", "min_gain": -0.1}, "min_gain = -0.1"),
        ({"run": "r", "name": "m", "alias": "v3"}, "alias = 'v3': MLflow reserves"),
    ):
        with pytest.raises(ConfigError, match=text):
            PromoteArgs(**args)  # type: ignore[arg-type]


def test_a_current_version_whose_report_is_gone_is_named(run: Storage) -> None:
    assert promote(PromoteArgs(run.uri, "tiny", num_views=2)) == 0
    score(run, 0.75)
    for path in run.list("registered/reports/"):
        run.write(path, json.dumps({}).encode())
    with pytest.raises(UserError, match="models:/tiny/1 has no readable report"):
        promote(PromoteArgs(run.uri, "tiny", num_views=2))


def test_a_description_that_mlflow_refuses_does_not_undo_a_promotion(
    run: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise TrackingError("the description is too long")

    monkeypatch.setattr(describe, "describe_model", refuse)
    assert promote(PromoteArgs(run.uri, "tiny", num_views=2)) == 0
    assert holders() == ("1", None)
    assert "the registered model tiny has no new description: the description is too long" in caplog.text
