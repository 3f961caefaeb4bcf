"""The README stays true: its commands name modules that exist, its files exist, CI runs its test command."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_commands_name_modules_that_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert {"jobs.train", "jobs.preprocess", "jobs.evaluate", "jobs.promote", "jobs.predict", "infra.local"} <= modules
    missing = [
        m
        for m in modules
        if not (ROOT / Path(*m.split("."))).with_suffix(".py").exists() and importlib.util.find_spec(m) is None
    ]
    assert not missing


def test_recipes_named_exist() -> None:
    from jobs.recipes import RECIPES

    assert set(re.findall(r"jobs\.train (\w+) --data", README)) <= set(RECIPES)


def test_files_named_exist() -> None:
    named = set(re.findall(r"`([\w/]+(?:\.(?:py|md|yaml|txt|toml)|/))`", README))
    assert named, "the pattern finds nothing"
    assert not [n for n in named if not (ROOT / n).exists()]


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()
