"""The documentation stays true: what it links to, and the commands, flags, recipes and files it names, exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pictures.__main__ import PICTURES
from jobs.recipes import ENSEMBLES, RECIPES
from tests.support.paths import ROOT

PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("build", "dist", "shared") for part in page.relative_to(ROOT).parts)
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]  # a changelog names what is gone
NOT_OURS = {"pytest", "pip"}
FLAGS_OF_OTHERS = {"--help", "--runtime-env-json"}
PROSE_WORDS = range(600, 1001)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """What GitHub makes of headings: lower case, no punctuation, a hyphen for each space."""
    titles = re.findall(r"^#+ (.+)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page)) + re.findall(r'(?:src|href)="([^"]+)"', page)
    return [link for link in found if not re.match(r"\w+:", link)]


def commands() -> dict[str, set[str]]:
    """Module -> flags that some page passes to it in a line of a code block or in backticks."""
    found: dict[str, set[str]] = {}
    for name in CURRENT:
        page = text(name)
        code = re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        blocks = [line.split("  #")[0] for block in code for line in block.splitlines()]
        for line in blocks + re.findall(r"`([^`\n]+)`", without_code(page)):
            if match := re.search(r"python -m ([\w.]+)(.*)", line):
                found.setdefault(match[1], set()).update(re.findall(r"(?<=\s)--[a-z][\w.-]*", match[2]))
    return found


def flags_outside_commands() -> set[str]:
    return {flag for name in CURRENT for flag in re.findall(r"`(--[a-z][\w.-]*)", without_code(text(name)))}


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/train.md", "pipeline/data/README.md"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_links_and_anchors_exist(name: str) -> None:
    missing = []
    for link in links(text(name)):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            missing.append(link)
    assert not missing


def test_commands_name_modules_that_exist() -> None:
    modules = set(commands()) - NOT_OURS
    assert {"jobs.train", "jobs.preprocess", "jobs.evaluate", "jobs.promote", "jobs.predict", "infra.local"} <= modules
    missing = []
    for module in modules:
        path = ROOT / Path(*module.split("."))
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            missing.append(module)
    assert not missing


def helps(calls: list[list[str]]) -> list[str]:
    """What ``python -m MODULE WORDS --help`` prints for each call: one process, which imports everything once."""
    program = """
import contextlib, io, json, runpy, sys
shown = []
for module, *words in json.load(sys.stdin):
    sys.argv = [module, *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, f"{module} {words}: {end.code}"
    shown.append(printed.getvalue())
json.dump(shown, sys.stdout)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(calls), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


@pytest.mark.slow  # imports every command
def test_flags_named_are_those_of_the_commands() -> None:
    variants = {
        "jobs.train": ["crn_demo", "mrst_demo"],
        "jobs.bench": ["tvl1", "preprocess", "loader", "models", "training", "gpu"],
    }
    ours = {m: flags for m, flags in sorted(commands().items()) if m not in NOT_OURS and m != "infra.local"}
    calls = [[module, *([word] if word else [])] for module in ours for word in variants.get(module, [""])]
    of_commands: dict[str, set[str]] = {}
    for (module, *_), shown in zip(calls, helps(calls), strict=True):
        assert "usage: " in shown.lower(), module
        of_commands.setdefault(module, set()).update(re.findall(r"--[a-z][\w.-]*", shown))
    known = set().union(*of_commands.values())
    wrong = {m: found for m, flags in ours.items() if (found := flags - of_commands[m] - FLAGS_OF_OTHERS)}
    assert not wrong
    assert not flags_outside_commands() - known - FLAGS_OF_OTHERS


def test_recipes_named_exist() -> None:
    everything = "\n".join(map(text, CURRENT))
    named = set(re.findall(r"python -m jobs\.train ([a-z]\w+)", everything))
    assert {"crn_small", "crn_bninception"} <= named <= set(RECIPES)
    assert set(re.findall(r"--recipe (\w+)", everything)) <= set(ENSEMBLES)


@pytest.mark.parametrize("name", CURRENT)
def test_files_named_exist(name: str) -> None:
    """Paths in backticks, from the root or from the page's own folder."""
    named = re.findall(r"`([\w/.]*\w\.(?:py|md|yaml|yml|txt|toml)|[\w/]*\w/)`", text(name))
    named += re.findall(r"`(tests/[\w/]+)`", text(name))
    named = [path for path in named if not path.split("/")[0].isupper()]  # OUT/, RUN/: the reader's own
    assert not [path for path in named if not (ROOT / path).exists() and not ((ROOT / name).parent / path).exists()]


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*)(?=.*:)", text("Makefile"), flags=re.MULTILINE))
    named = {t for name in CURRENT for t in re.findall(r"(?:^|`)make ([a-z][\w-]*)", text(name), flags=re.MULTILINE)}
    assert {"demo", "test", "test-fast", "check"} <= named <= targets


def test_pictures_are_shown_and_small() -> None:
    images = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert set(images) == {file for file, _ in PICTURES.values()}
    assert max(images.values()) < 300_000
    shown = {Path(link).name for name in NAMES for link in links(text(name))}
    assert set(images) <= shown


def test_the_readme_is_short() -> None:
    prose = re.sub(r"<[^>]+>|[|`*#]|---", " ", without_code(text("README.md")))
    assert len(prose.split()) in PROSE_WORDS


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in text("README.md")
    for file in (".ci/run", ".github/workflows/ci.yml"):
        assert {"make check", "make test"} <= set(re.findall(r"make [a-z-]+", text(file)))
