"""jobs.predict over several files: each is answered or named with its reason, and none stops the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jobs.predict.command import main
from pipeline.errors import UserError
from tests.support.odd_media import write_video
from tests.unit.jobs.predict.conftest import Registry

pytestmark = pytest.mark.slow  # MLflow sets up a database


def test_bad_files_are_named_and_the_others_are_answered(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, empty, absent = tmp_path / "page [b].mp4", tmp_path / "empty.mp4", tmp_path / "absent.mp4"
    html.write_bytes(b"<html>not found</html>" * 50)
    empty.touch()
    first, last = registry.videos[0], tmp_path / "a [b]\x1b[31m\nclip.mp4"
    last.write_bytes(registry.videos[1].read_bytes())
    files = [first, html, absent, empty, tmp_path, last]
    code = main(["models:/tiny@champion", *map(str, files), "--json", str(tmp_path / "a.json"), "--top", "2"])
    out, err = capsys.readouterr()
    assert code == 1
    assert str(first) in out
    assert r"a [b]\x1b[31m\nclip.mp4" in out, "brackets are no style, and what a terminal obeys is shown"
    lines = {line.split(": ")[0]: line.split(": ")[1] for line in err.splitlines() if str(tmp_path) in line}
    assert lines == {
        str(html): "not_video",
        str(absent): "missing",
        str(empty): "empty",
        str(tmp_path): lines[str(tmp_path)],
    }
    assert out.count("answered in ") == 2
    assert len(re.findall(r"\b[01]\.\d{4}\b", out)) == 4, "two classes of each answered file"

    document = json.loads((tmp_path / "a.json").read_text())
    assert [row["video"] for row in document["answers"]] == [str(file) for file in files]
    assert [row.get("error", {}).get("reason") for row in document["answers"]][1:4] == ["not_video", "missing", "empty"]
    for row in (document["answers"][0], document["answers"][-1]):
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert len(row["labels"]) == 4
        assert row["exact"] is True
        stages = row["stages"]
        assert stages.keys() == {"decode_s", "flow_s", "encode_s", "model_s"}
        assert 0 < sum(stages.values()) <= row["answered_in_s"] + 0.01


def test_all_good_files_end_with_0(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models:/tiny/1", str(registry.videos[0])]) == 0
    assert not re.search(r"mp4 \(\d", capsys.readouterr().out), "the time looks as if it were the clip's"


def test_a_video_shorter_than_a_clip_has_a_note_of_its_own_line(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    short = write_video(tmp_path / "short.mp4", rng.integers(0, 255, (3, 48, 64, 3), np.uint8))
    assert main(["models:/tiny/1", str(short), "--json", str(tmp_path / "a.json")]) == 0
    (answer,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert answer["note"].startswith("3 frames, fewer than the 5 that a clip covers")
    assert f"note: {answer['note']}" in capsys.readouterr().out.splitlines()


def test_without_a_stack_the_message_says_which_registry_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="no local stack is up and MLFLOW_TRACKING_URI is not set: python -m infra"):
        main(["models:/tiny/1", str(registry.videos[0])])


def test_nothing_is_loaded_where_no_file_exists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*absent\.mp4"):
        main(["models:/tiny@champion", str(tmp_path / "absent.mp4")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top", "0"], "top = 0: must be at least 1"),
        (["--json", "no/such/folder/a.json"], "its folder does not exist"),
        (["--trust-model-code"], "no code of the version is run"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(["models:/tiny@champion", str(tmp_path), *flags])


def test_models_that_are_not_there_are_one_line(registry: Registry) -> None:
    for uri in ("models:/tiny@nobody", "models:/tiny/99", "models:/another@champion"):
        with pytest.raises(UserError, match=f"cannot load {uri}: .*; use models:/NAME@ALIAS or models:/NAME/VERSION"):
            main([uri, str(registry.videos[0])])
