"""The import table of the design: a room may import the rooms above it, and nothing below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = ("pipeline.config", "pipeline.errors")

# Longest matching prefix decides which room a module is in. What a room may import of ours, itself always included.
ALLOWED: dict[str, tuple[str, ...]] = {
    "pipeline.config": BASE,
    "pipeline.errors": BASE,
    "pipeline.storage": BASE,
    "pipeline.sample": (*BASE, "pipeline.storage"),
    "pipeline.shards": (*BASE, "pipeline.storage", "pipeline.sample"),
    "pipeline.manifest": (*BASE, "pipeline.storage", "pipeline.sample", "pipeline.shards"),
    "preprocessing": (*BASE, "pipeline.storage", "pipeline.sample", "pipeline.shards", "pipeline.manifest"),
    "pipeline.data": (*BASE, "pipeline.storage", "pipeline.sample", "pipeline.shards", "pipeline.manifest"),
    "pipeline.models": BASE,
    "pipeline.training": (*BASE, "pipeline.storage", "pipeline.data.batch", "pipeline.models"),
    "pipeline.evaluation": (*BASE, "pipeline.storage", "pipeline.manifest", "pipeline.data", "pipeline.models"),
    # prediction repeats the loader's views on raw frames with the reference implementation, never with DALI
    "pipeline.predict": (
        *BASE, "pipeline.models", "pipeline.evaluation", "pipeline.sample", "pipeline.data.batch", "pipeline.data.clips", "pipeline.data.reference",
        "preprocessing.decode", "preprocessing.flow",
    ),
    "pipeline.tracking": BASE,
    "jobs": ("pipeline", "preprocessing"),
    "infra": ("pipeline.config", "pipeline.errors"),
}  # fmt: skip

# Each of these belongs to one room.
ONLY_IN = {"ray": ("jobs",), "mlflow": ("pipeline.tracking",), "nvidia": ("pipeline.data.dali_graph",), "boto3": ("pipeline.storage", "infra")}

# The demo drives the stack as a user does; infra is started by it, not the other way round.
EXTRA = {"jobs.demo": ("infra",)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            assert node.module is not None
            # `from pipeline import errors` names a module, `from pipeline.errors import X` does not: keep what is on disk
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                on_disk = ROOT / Path(*whole.split("."))
                found.append((node.lineno, whole if on_disk.with_suffix(".py").exists() or on_disk.is_dir() else node.module))
    return found


def within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def room_of(name: str) -> str:
    rooms = [room for room in ALLOWED if within(name, (room,))]
    assert rooms, f"{name} is in no room of the table"
    return max(rooms, key=len)


def faults(name: str, path: Path) -> list[str]:
    room = room_of(name)
    allowed = (*ALLOWED[room], room, *EXTRA.get(name, ()))
    bad = []
    for line, imported in imports(path):
        top = imported.split(".")[0]
        ours = top in ("pipeline", "preprocessing", "jobs", "infra", "tests")
        if ours and not within(imported, allowed):
            bad.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {imported}")
        if top in ONLY_IN and not within(name, ONLY_IN[top]):
            bad.append(f"{path.relative_to(ROOT)}:{line}: {top} is used in {', '.join(ONLY_IN[top])} alone")
    return bad


MODULES = sorted(p for room in ("pipeline", "preprocessing", "jobs", "infra") for p in (ROOT / room).rglob("*.py") if p.name != "__init__.py" or p.stat().st_size)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: module_name(p))
def test_module_keeps_the_table(path: Path) -> None:
    name = module_name(path)
    if name == "pipeline":
        return
    assert not faults(name, path)


def test_table_catches_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pipeline" / "models" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text("import ray\nfrom pipeline.training.loop import train\nimport torch\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(faults("pipeline.models.bad", file)) == 2
