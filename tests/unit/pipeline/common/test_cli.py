"""How commands end: exit codes, one line, and a file where there is more to know."""

from __future__ import annotations

import re
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
    if "write" in line:
        assert "OSError: disk" in Path(found[2]).read_text()


def test_a_state_folder_that_cannot_be_written_does_not_hide_the_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "file"))
    code, err = end_of(raiser(ZeroDivisionError("x")), capsys)
    assert code == 1
    assert re.fullmatch(r"failed: ZeroDivisionError: x; whole traceback: not written \(.*\)", err)
