"""The import table of the design: a package may import those above it, and nothing below; no circle anywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BASE = ("pipeline.config", "pipeline.errors", "pipeline.common")
STORED = (*BASE, "pipeline.storage", "pipeline.dataset")

# Longest matching prefix decides which package a module is in. What a package may import of ours, itself always
# included.
ALLOWED: dict[str, tuple[str, ...]] = {
    "pipeline.config": BASE,
    "pipeline.errors": BASE,
    "pipeline.common": BASE,
    "pipeline.storage": BASE,
    "pipeline.dataset": (*BASE, "pipeline.storage"),
    "preprocessing.sources": (*BASE, "pipeline.storage"),
    "preprocessing.annotations": (*BASE, "pipeline.storage", "preprocessing.sources"),
    "preprocessing.media": BASE,
    "preprocessing.flow": BASE,
    "preprocessing.flow.pairs": (*BASE, "preprocessing.flow", "preprocessing.media"),
    "preprocessing.flow.compare": (*BASE, "preprocessing.flow", "preprocessing.flow.pairs"),
    "preprocessing.shard": (
        *STORED,
        "preprocessing.sources",
        "preprocessing.annotations",
        "preprocessing.media",
        "preprocessing.flow",
    ),
    "preprocessing.verify": (*STORED, "preprocessing.media", "preprocessing.shard"),
    "preprocessing.report": (*STORED, "preprocessing.media"),
    "preprocessing.synthetic": (*BASE, "preprocessing.media"),
    "pipeline.data": STORED,
    "pipeline.data.sampling": (*BASE, "pipeline.dataset"),
    "pipeline.data.fetch": STORED,
    "pipeline.data.decoding": (*BASE, "pipeline.dataset", "pipeline.data.sampling"),
    "pipeline.models": BASE,
    "pipeline.checkpoints": (*BASE, "pipeline.storage"),
    "pipeline.training": (
        *BASE,
        "pipeline.storage",
        "pipeline.checkpoints",
        "pipeline.data.batch",
        "pipeline.models",
    ),
    "pipeline.evaluation": (*STORED, "pipeline.data", "pipeline.models"),
    "pipeline.runs": (*STORED, "pipeline.checkpoints", "pipeline.models", "pipeline.training.checkpoint"),
    # prediction repeats the loader's views on raw frames with the reference implementation, never with DALI
    "pipeline.serving": (
        *BASE,
        "pipeline.dataset",
        "pipeline.models",
        "pipeline.evaluation",
        "pipeline.data.batch",
        "pipeline.data.sampling",
        "pipeline.data.decoding.reference",
        "preprocessing.media.decode",
        "preprocessing.media.encode",
        "preprocessing.flow",
    ),
    "pipeline.predict": ("pipeline.serving",),
    "pipeline.tracking": (*BASE, "pipeline.storage"),
    "jobs": ("pipeline", "preprocessing"),
    "infra": BASE,
}

# Each of these belongs to one package.
ONLY_IN = {
    "ray": ("jobs", "infra.ray_join"),
    "mlflow": ("pipeline.tracking", "infra.mlflow_guard"),
    "nvidia": ("pipeline.data.decoding.dali",),
    "boto3": ("pipeline.storage", "infra"),
}

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
            # `from pipeline import errors` names a module, `from pipeline.errors import X` does not: keep what is on
            # disk
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                on_disk = ROOT / Path(*whole.split("."))
                found.append(
                    (node.lineno, whole if on_disk.with_suffix(".py").exists() or on_disk.is_dir() else node.module)
                )
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def package_of(name: str) -> str:
    packages = [package for package in ALLOWED if within(name, (package,))]
    assert packages, f"{name} is in no package of the table"
    return max(packages, key=len)


def faults(name: str, path: Path) -> list[str]:
    package = package_of(name)
    allowed = (*ALLOWED[package], package, *EXTRA.get(name, ()))
    bad = []
    for line, imported in imports(path):
        top = imported.split(".")[0]
        ours = top in ("pipeline", "preprocessing", "jobs", "infra", "tests")
        if ours and not within(imported, allowed):
            bad.append(f"{path.relative_to(ROOT)}:{line}: {package} may not import {imported}")
        if top in ONLY_IN and not within(name, ONLY_IN[top]):
            bad.append(f"{path.relative_to(ROOT)}:{line}: {top} is used in {', '.join(ONLY_IN[top])} alone")
    return bad


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, or of one that points to itself (Tarjan 1972, without
    recursion).
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for start in graph:
        if start in index:
            continue
        work = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    if len(component) > 1 or node in graph[node]:
                        found.append(sorted(component))
    return found


ALL_MODULES = sorted(
    path for top in ("pipeline", "preprocessing", "jobs", "infra") for path in (ROOT / top).rglob("*.py")
)
MODULES = [path for path in ALL_MODULES if path.name != "__init__.py" or path.stat().st_size]


def import_graph() -> dict[str, set[str]]:
    """Which of our modules each of our modules imports, at its top or inside a function."""
    names = {module_name(path): path for path in ALL_MODULES}
    return {name: {imported for _, imported in imports(path) if imported in names} for name, path in names.items()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: module_name(p))
def test_module_keeps_the_table(path: Path) -> None:
    name = module_name(path)
    if name in ("pipeline", "preprocessing"):
        return
    assert not faults(name, path)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph()) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}, "g": {"a", "h"}, "h": {"g"}}
    assert circles(graph) == [["a", "b", "c"], ["f"], ["g", "h"]]


def test_table_catches_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pipeline" / "models" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text("import ray\nfrom pipeline.training.loop import train\nimport torch\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(faults("pipeline.models.bad", file)) == 2
