"""How commands end: exit codes, one line, and a file where there is more to know."""

from __future__ import annotations

import dataclasses
import errno
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.common import cli
from pipeline.errors import ConfigError, ReciprocalError, UserError


def end_of(main: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stop:
        cli.run_main(main)
    return stop.value.code, capsys.readouterr().err.strip()


def raiser(error: BaseException, cause: BaseException | None = None) -> Callable[[], int]:
    def main() -> int:
        raise error from cause

    return main


@pytest.mark.parametrize(
    ("main", "end"),
    [
        (lambda: 0, (0, "")),
        (lambda: 3, (3, "")),
        (raiser(ConfigError("lr", -1, "must be positive")), (2, "error: lr = -1: must be positive")),
        (raiser(UserError("no JSON"), ValueError("line 1")), (2, "error: no JSON")),
        (raiser(ReciprocalError("4 of 5 are missing")), (1, "failed: 4 of 5 are missing")),
        (raiser(KeyboardInterrupt()), (130, "interrupted: run the same command again to continue")),
    ],
)
def test_what_was_said_on_purpose_is_the_whole_line(
    main: Callable[[], int], end: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(main, capsys) == end


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (raiser(ReciprocalError("cannot write"), OSError("disk")), "failed: cannot write"),
        (raiser(ZeroDivisionError("division by zero\nmore")), "failed: ZeroDivisionError: division by zero"),
        (raiser(AssertionError()), "failed: AssertionError"),
        (
            raiser(OSError(errno.ENOSPC, "No space left on device")),
            f"failed: {tempfile.gettempdir()} cannot be written (No space left on device): free some space there, or"
            " set TMPDIR to a folder with more",
        ),
    ],
)
def test_what_came_from_elsewhere_has_its_traceback_in_a_file(
    main: Callable[[], int], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = end_of(main, capsys)
    assert code == 1
    found = re.fullmatch(r"(.*); whole traceback: (.*)", err)
    assert found, err
    assert found[1] == line
    assert "Traceback (most recent call last)" in Path(found[2]).read_text()
    if "cannot write" in line:
        assert "OSError: disk" in Path(found[2]).read_text()


def test_a_state_folder_that_cannot_be_written_does_not_hide_the_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "file"))
    code, err = end_of(raiser(ZeroDivisionError("x")), capsys)
    assert code == 1
    assert re.fullmatch(r"failed: ZeroDivisionError: x; whole traceback: not written \(.*\)", err)


def test_the_file_holds_every_rank_s_own_traceback_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray Train's error has shortened them in its text and keeps them as ``worker_failures``."""
    cause = RuntimeError("Training failed: ... (Output truncated) ...")
    cause.worker_failures = {1: ValueError("the second line\nof rank 1"), 0: ValueError("rank 0")}  # type: ignore[attr-defined]
    _, err = end_of(raiser(ReciprocalError("training failed"), cause), capsys)
    text = Path(err.rpartition("whole traceback: ")[2]).read_text()
    assert re.search(r"rank 0:\nrank 0\n\nrank 1:\nthe second line\nof rank 1", text)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Nothing much."""

    name: str = ""


def test_labels_of_a_docstring_begin_a_line_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Do it.\n\n    python -m it\n\nReads    this,\n         and that.\nWrites   the other.\nExit     0 done."
    with pytest.raises(SystemExit):
        cli.parse(Arguments, args=["--help"], description=text)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[0] for line in lines if line.startswith(("Reads", "Writes", "Exit"))] == [
        "Reads",
        "Writes",
        "Exit",
    ]
