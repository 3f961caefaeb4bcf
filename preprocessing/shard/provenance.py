"""What made a shard's bytes: the code that decides them, found by following imports, and the libraries under it."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_FIRST_PARTY = ("pipeline", "preprocessing")

# Flow engines are imported inside a function of preprocessing.flow.factory; imports of functions are followed too.
ENTRY_MODULES = ("preprocessing.annotations", "preprocessing.shard.build", "preprocessing.shard.plan")

CARRIERS = {
    "pipeline.storage": "moves bytes from and to a store and does not change them",
    "pipeline.common": "threads, timers and file replacement: when something is done, not what is stored",
    "pipeline.config.stack": "where the servers are and where caches are kept",
    "pipeline.errors": "classes of exceptions; the texts that are stored with rejects stand where they are raised",
}
"""Packages that are imported by the shard builder and decide no byte, with the reason. They are not followed either."""


def builder_version(root: Path = _ROOT) -> str:
    """A hash (12 hex digits) of every module that decides a shard's bytes, then DISTRIBUTION-VERSION of each library
    these modules import.

    Args:
        root: folder that contains the packages ``pipeline`` and ``preprocessing``.
    """
    modules, libraries = decisive_code(root)
    digest = hashlib.sha256()
    for name, path in sorted(modules.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return " ".join([digest.hexdigest()[:12], *_versions(libraries)])


def decisive_code(root: Path = _ROOT) -> tuple[Mapping[str, Path], frozenset[str]]:
    """The modules reached by imports from ``ENTRY_MODULES``, by name, and the names of the libraries they import.

    Imports are followed wherever they stand in a file. Importing a module runs its packages' ``__init__`` as well, so
    these are in. ``CARRIERS`` and Python's own modules are left out.
    """
    modules: dict[str, Path] = {}
    libraries: set[str] = set()
    waiting: list[str] = list(ENTRY_MODULES)
    while waiting:
        name = waiting.pop()
        if name in modules or _is_in(name, CARRIERS):
            continue
        if (path := _file_of(name, root)) is None:
            continue  # a class or function that was imported from a module
        modules[name] = path
        waiting.append(name.rpartition(".")[0])
        for imported in _imports(path):
            if _is_in(imported, _FIRST_PARTY):
                waiting += [imported, imported.rpartition(".")[0]]
            elif (library := imported.partition(".")[0]) not in sys.stdlib_module_names:
                libraries.add(library)
    return modules, frozenset(libraries)


def _is_in(name: str, packages: tuple[str, ...] | Mapping[str, str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _file_of(name: str, root: Path) -> Path | None:
    """The file of a module or package; None where ``name`` is neither."""
    if not name:
        return None
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> list[str]:
    """Dotted names that a file imports; ``from A import B`` gives ``A.B``, because B may be a module."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"{path}:{node.lineno}: relative import; write the module's full name")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _versions(libraries: frozenset[str]) -> list[str]:
    """DISTRIBUTION-VERSION of each library that is installed; one that is not could not have decided anything."""
    providers = metadata.packages_distributions()
    names = {name for library in libraries for name in providers.get(library, ())}
    return [f"{name}-{metadata.version(name)}" for name in sorted(names, key=str.lower)]
