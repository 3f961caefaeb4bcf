"""Which checkpoint ``jobs.evaluate --checkpoint`` takes, and where its report goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import ray

from jobs.evaluate import command
from jobs.evaluate.command import EvaluateArgs, evaluate
from jobs.evaluate.worker import evaluate_rank
from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.report import report_path
from pipeline.runs.folder import RESULT, find_checkpoint
from pipeline.storage import Storage, open_storage
from pipeline.tracking.runs import client
from tests.support.finished_run import CHECKPOINT, finished_run

pytestmark = pytest.mark.slow

SCORES = {2: 0.5, 4: 0.75, 6: 0.25}


def checkpoint(step: int) -> str:
    return f"checkpoint_{step:09d}"


@pytest.fixture
def run(tmp_path: Path, tiny_set: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A finished run with three checkpoints, the second of which is the best by what was validated."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = open_storage(finished_run(tmp_path / "run", tiny_set))
    folder = tmp_path / "run" / CHECKPOINT
    state = json.loads((folder / "state.json").read_text())
    state["config"]["run"]["keep_best"] = "val/top1_1x1"
    (folder / "state.json").write_text(json.dumps(state))
    for step, score in SCORES.items():
        CheckpointStore(run).save(folder, Position(global_step=step), {"val/top1_1x1": score})
    run.write(RESULT, json.dumps({**json.loads(run.read(RESULT)), "checkpoint": checkpoint(6)}).encode())
    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's tasks run in this process."""

    class Task:
        def __init__(self, function: object) -> None:
            self.remote = function

    monkeypatch.setattr(command, "connect", lambda: None)
    monkeypatch.setattr(command, "check_resources", lambda *_: None)
    monkeypatch.setattr(command, "wants_gpu", lambda _: False)
    monkeypatch.setattr(ray, "remote", lambda **_: Task)
    monkeypatch.setattr(ray, "get", lambda found: found)
    assert command.evaluate_rank is evaluate_rank


def test_words_and_names_lead_to_checkpoints(run: Storage) -> None:
    for wanted, step in (("last", 6), ("best", 4), (checkpoint(2), 2), (checkpoint(6), 6)):
        assert find_checkpoint(run, wanted, checkpoint(6)) == checkpoint(step)


def test_what_there_is_not_is_refused_with_what_there_is(run: Storage) -> None:
    with pytest.raises(
        ConfigError, match=rf"'x': .* no sound checkpoint 'x': it has {checkpoint(6)}, .*; last and best name one, too$"
    ):
        find_checkpoint(run, "x", checkpoint(6))
    run.delete(f"{checkpoint(2)}/files.json")
    with pytest.raises(ConfigError, match=rf"no sound checkpoint '{checkpoint(2)}'"):
        find_checkpoint(run, checkpoint(2), checkpoint(6))
    with pytest.raises(UserError, match=rf"has no sound checkpoint '{checkpoint(9)}': it has {checkpoint(6)}, "):
        CheckpointStore(run).record(checkpoint(9))
    run.write(f"{checkpoint(6)}/state.json", b"{}")
    with pytest.raises(ConfigError, match=r"checkpoint = 'best': .*state\.json has 2 bytes"):
        find_checkpoint(run, "best", checkpoint(6))


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_best_one_is_named_and_no_other_taken_for_it(run: Storage, how: str) -> None:
    path = f"{checkpoint(4)}/model.safetensors"
    run.delete(path) if how == "missing" else run.write(path, run.read(path)[:1000])
    problem = "is missing" if how == "missing" else "has 1000 bytes and was written with"
    with pytest.raises(ConfigError, match=rf"checkpoint = 'best': .*{checkpoint(4)}/model\.safetensors {problem}"):
        find_checkpoint(run, "best", checkpoint(6))


def test_a_run_that_kept_no_best_says_so(tmp_path: Path, tiny_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = open_storage(finished_run(tmp_path / "run", tiny_set))
    with pytest.raises(ConfigError, match=r"has kept no best one: it was trained without run\.keep_best; use last"):
        find_checkpoint(run, "best", CHECKPOINT)


def test_the_report_of_another_checkpoint_lies_beside_its_files_and_leaves_the_runs_own_alone(
    run: Storage, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    args = EvaluateArgs(run=run.uri, num_views=2)
    last, folder, page = evaluate(args)
    assert (last.checkpoint, folder) == (checkpoint(6), run.uri)
    own = run.read(report_path("test", "2x1"))
    best, folder, _ = evaluate(dataclasses.replace(args, checkpoint="best"))
    assert (best.checkpoint, folder) == (checkpoint(4), f"{run.uri}/{checkpoint(4)}")
    assert run.read(report_path("test", "2x1")) == own
    assert json.loads(run.read(f"{checkpoint(4)}/{report_path('test', '2x1')}"))["checkpoint"] == checkpoint(4)
    assert best.scores == last.scores  # the same weights
    assert command.main([run.uri, "--num-views", "2", "--checkpoint", "best"]) == 0
    assert f"weights  {checkpoint(4)}" in capsys.readouterr().out.splitlines()
    metrics = client().get_run(page.tracking_run_id).data.metrics
    assert metrics[f"{checkpoint(4)}/test/top1_2x1"] == metrics["test/top1_2x1"] == last.top1
    assert CheckpointStore(run).entries()[1].usable
    with CheckpointStore(run).fetch(checkpoint(4)):
        pass


@pytest.mark.parametrize("name", ["val/top1_4x1", "top1", "test/top1_1x1", "val/diff/top1_1x1", "val/rgb/loss_1x1"])
def test_a_metric_that_no_validation_gives_is_refused(name: str) -> None:
    config = TrainConfig()
    with pytest.raises(ConfigError, match=r"run\.keep_best = .*use one of val/loss_1x1, val/top1_1x1, "):
        dataclasses.replace(config, run=dataclasses.replace(config.run, keep_best=name))
    for right in ("val/top1_1x1", "val/loss_1x1", "val/flow/top5_1x1"):
        kept = dataclasses.replace(config, run=dataclasses.replace(config.run, keep_best=right))
        assert kept.identity() == config.identity()
        with pytest.raises(ConfigError, match=r"run\.keep_best = .*there is no validation"):
            dataclasses.replace(kept, data=dataclasses.replace(kept.data, val_split=""))
