"""Whatever stands in the place of a run's files, a reader says in one line which file it is and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, UserError
from pipeline.evaluation.report import EvalReport, read_report, report_path
from pipeline.runs.folder import RESULT, RUN, check_run_id, fetched_checkpoint, open_run, read_result, read_run
from pipeline.storage import LocalStorage
from pipeline.training.checkpoint import CHECKPOINT_VERSION, read_state
from tests.support.damage import BYTES, PLACES
from tests.support.run_folder import write_run

pytestmark = pytest.mark.timeout(60)
STATE = "checkpoint_1/state.json"
REPORT = report_path("test", "4x1")


def _state(run: LocalStorage) -> None:
    with fetched_checkpoint(run, "checkpoint_1", only=("state.json",)) as folder:
        read_state(folder, ("position", "metrics"))


READERS: dict[str, Callable[[LocalStorage], object]] = {
    RUN: lambda run: read_run(run).train_config(),
    RESULT: read_result,
    STATE: _state,
    REPORT: lambda run: read_report(run, "test", "4x1", "python -m jobs.evaluate RUN --again"),
}


@pytest.fixture
def run(tmp_path: Path) -> LocalStorage:
    run = LocalStorage(str(tmp_path / "run"))
    write_run(run, "rgb_demo", data_uri="file:///none", digest="d" * 64)
    state = {"version": CHECKPOINT_VERSION, "classes": ["a"], "position": {"epoch": 1}, "metrics": {}}
    run.write(STATE, json.dumps(state).encode())
    report = EvalReport(
        run_id="r",
        model="rgb_demo",
        modalities=("rgb",),
        dataset="d",
        manifest_digest="d" * 64,
        split="test",
        protocol="4x1",
        num_videos=1,
        num_damaged=0,
        classes=("a",),
        scores={"rgb": {"top1": 1.0, "top5": 1.0}, "fused": {"top1": 1.0, "top5": 1.0}},
        per_class=(None,),
        confusion=((1,),),
        checkpoint="checkpoint_1",
        code_version="v",
        seconds=1.0,
    )
    run.write(REPORT, report.to_json().encode())
    return run


def refused(run: LocalStorage, path: str) -> None:
    with pytest.raises(UserError) as caught:
        READERS[path](run)
    text = str(caught.value)
    assert path.rpartition("/")[2] in text
    assert len(text.splitlines()) == 1
    assert "again" in text or "restore" in text, text


def test_sound_files_are_read(run: LocalStorage) -> None:
    for read in READERS.values():
        read(run)


# Of these, a run.json keeps what newer code adds; only some of the files have a version.
SAME = {"another version", "an unknown field", "a number of 5000 digits", "nested 300 deep in a field"}


@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize("damage", [name for name in BYTES if name not in SAME])
def test_damaged_bytes_are_refused(run: LocalStorage, path: str, damage: str) -> None:
    run.write(path, BYTES[damage](run.read(path)))
    refused(run, path)


@pytest.mark.parametrize("path", [RESULT, STATE])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused(run: LocalStorage, path: str, place: str) -> None:
    target = run.root / path
    target.unlink()
    PLACES[place](str(target))
    with pytest.raises(UserError, match=r"result\.json|state\.json|has not finished"):
        READERS[path](run)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (RUN, {"config": []}),
        (RUN, {"config": {"run": {"seed": "abc"}}}),
        (RUN, {"manifest_digest": 7}),
        (RESULT, {"checkpoint": "../other"}),
        (RESULT, {"checkpoint": ""}),
        (RESULT, {"checkpoint": 5}),
        (RESULT, {"seconds": "long"}),
        (STATE, {"position": {"epoch": -1}}),
        (STATE, {"position": {"epoch": 0.5}}),
        (STATE, {"classes": "abc"}),
        (STATE, {"metrics": []}),
        (REPORT, {"confusion": [[1, 2]]}),
        (REPORT, {"scores": {"fused": {}}}),
        (REPORT, {"num_videos": -1}),
        (REPORT, {"classes": [1]}),
    ],
)
def test_wrong_values_are_refused(run: LocalStorage, path: str, change: dict[str, object]) -> None:
    run.write(path, json.dumps({**json.loads(run.read(path)), **change}).encode())
    with pytest.raises(UserError) as caught:
        READERS[path](run)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("run_id", ["it's", 'say "x"', "é", "a" * 300, "a\nb", "a/b", "..", "a.b", "a b", "\x1b[2J"])
def test_ids_that_would_give_trouble_are_refused(run_id: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.run_id = .*use letters, digits, - and _") as caught:
        check_run_id(run_id)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("run_id", ["a\nb", "a/b", "..", "a" * 300, "", "\x1b[2J"])
def test_what_is_no_id_is_no_run(run_id: str) -> None:
    with pytest.raises(UserError, match="is no run id") as caught:
        open_run(run_id)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_with_a_name_too_long_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        open_run(f"file://{tmp_path}/{'a' * 300}")
