"""Moves of aliases and the way back, on a registry in a database file."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tracking import aliases
from pipeline.tracking.aliases import alias_history, move_alias, previous_holder
from pipeline.tracking.registry import Version, aliased_version, versions
from pipeline.tracking.runs import client

pytestmark = pytest.mark.slow


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """Five versions of the model ``m``, without an alias."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client().create_registered_model("m")
    for _ in range(5):
        client().create_model_version("m", f"file://{tmp_path}/model")
    return versions("m")


def holder(alias: str = "champion") -> str | None:
    found = aliased_version("m", alias)
    return found.version if found else None


def back() -> str:
    """Roll back by one, as jobs.promote does."""
    earlier = previous_holder("m", "champion")
    move_alias(earlier, "champion", "rolled back", "")
    return earlier.version


def test_every_roll_back_goes_one_further_and_a_new_holder_comes_on_top(registered: list[Version]) -> None:
    for version in registered[:3]:
        move_alias(version, "champion", "promoted", f"better than before {version.version}")
    assert [back(), back()] == ["2", "1"]
    with pytest.raises(UserError, match="no version held m@champion before version 1: nothing to roll back to"):
        back()
    move_alias(registered[4], "champion", "forced", "")
    assert back() == "1" == holder()
    history = alias_history("m", "champion")
    assert [(move.version, move.how) for move in history] == [
        ("1", "promoted"),
        ("2", "promoted"),
        ("3", "promoted"),
        ("2", "rolled back"),
        ("1", "rolled back"),
        ("5", "forced"),
        ("1", "rolled back"),
    ]
    assert history[1].why == "better than before 2"
    assert history[0].by
    assert all(first.at_ms <= second.at_ms for first, second in itertools.pairwise(history))


def test_an_alias_that_was_moved_by_hand_is_known(registered: list[Version]) -> None:
    move_alias(registered[0], "champion", "promoted", "")
    client().set_registered_model_alias("m", "champion", "4")
    assert [(move.version, move.how) for move in alias_history("m", "champion")] == [
        ("1", "promoted"),
        ("4", "moved elsewhere"),
    ]
    assert back() == "1"
    move_alias(registered[1], "champion", "promoted", "")
    assert [move.version for move in alias_history("m", "champion")] == ["1", "4", "1", "2"]


def test_versions_that_are_gone_are_passed_over(registered: list[Version], caplog: pytest.LogCaptureFixture) -> None:
    for version in registered[:4]:
        move_alias(version, "champion", "promoted", "")
    client().delete_model_version("m", "3")
    with caplog.at_level(logging.WARNING):
        assert back() == "2"
    assert "version 3 of m is no longer registered" in caplog.text
    assert back() == "1"
    client().delete_model_version("m", "2")
    with pytest.raises(UserError, match="nothing to roll back to"):
        back()


def test_after_a_way_back_past_one_that_is_gone_it_is_never_its_own_predecessor(registered: list[Version]) -> None:
    for version in registered[:3]:
        move_alias(version, "champion", "promoted", "")
    client().delete_model_version("m", "2")
    assert back() == "1"
    with pytest.raises(UserError, match="nothing to roll back to"):
        back()


def test_aliases_have_histories_of_their_own(registered: list[Version]) -> None:
    move_alias(registered[0], "champion", "promoted", "")
    move_alias(registered[1], "candidate", "promoted", "")
    assert [move.version for move in alias_history("m", "candidate")] == ["2"]
    with pytest.raises(UserError, match=r"no version with the alias other \(it has candidate, champion\)"):
        previous_holder("m", "other")
    with pytest.raises(UserError, match=r"has no registered model 'n'"):
        previous_holder("n", "champion")


def test_a_history_that_fills_its_tag_keeps_the_latest_moves(
    registered: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "_MOST_CHARACTERS", 800)
    for number in range(12):
        move_alias(registered[number % 5], "champion", "promoted", "because " * 100)
    history = alias_history("m", "champion")
    assert 1 <= len(history) < 12
    assert history[-1].version == "2"
    assert back() == "1"


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"version": 3}]', '[{"version": "1", "how": "stolen"}]'])
def test_a_history_that_was_damaged_begins_anew(
    registered: list[Version], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    move_alias(registered[0], "champion", "promoted", "")
    client().set_registered_model_tag("m", "mlflow.reciprocal.history.champion", text)
    assert [(move.version, move.how) for move in alias_history("m", "champion")] == [("1", "moved elsewhere")]
    assert "the history of m@champion cannot be read" in caplog.text
    move_alias(registered[1], "champion", "promoted", "")
    assert back() == "1"
