"""What of a working directory goes to the cluster: code and small files, and never a repository, a virtual environment,
data or a secret.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import filesize

from pipeline.common.words import counted
from pipeline.errors import ConfigError

MOST_BYTES = 100 << 20
"""Ray itself takes 500 MiB, keeps them in the memory of its head, and copies them to every node."""
_FOLDERS = frozenset(
    {".git", ".hg", ".svn", "__pycache__", "node_modules", ".tox", ".nox", ".ipynb_checkpoints"}
    | {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".eggs", "mlruns", "mlartifacts"}
)
_DATA = (
    *("*.mp4", "*.avi", "*.mkv", "*.webm", "*.mov", "*.mpg", "*.mpeg", "*.m4v", "*.wmv", "*.flv", "*.3gp"),
    *("*.tar", "*.tar.gz", "*.tgz", "*.zip", "*.rar", "*.7z"),
    *("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.npy", "*.npz", "*.caffemodel", "*.onnx", "*.db", "*.sqlite"),
)
_SECRETS = (".env", "*.env", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "credentials", "credentials.json", ".netrc")
_LARGEST = 5  # named where the whole is too large


@dataclasses.dataclass(frozen=True)
class Package:
    """Files of a working directory, by path relative to it, with their sizes in bytes."""

    root: Path
    files: dict[str, int]
    data: dict[str, int]
    """Left out as data."""
    secrets: tuple[str, ...]
    """Left out as secrets."""

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())

    def copy_to(self, folder: Path) -> None:
        """Copy the files; a link becomes the file that it leads to."""
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / name, target)

    def __str__(self) -> str:
        left = []
        if self.data:
            size = filesize.decimal(sum(self.data.values()))
            left.append(f"{counted(len(self.data), 'file')} of data ({size}, such as {min(self.data)})")
        if self.secrets:
            left.append(f"what may be a secret ({', '.join(self.secrets[:3])})")
        text = f"{counted(len(self.files), 'file')}, {filesize.decimal(self.num_bytes)}"
        return f"{text}; left out: {' and '.join(left)}" if left else text


def find_package(root: Path, most_bytes: int = MOST_BYTES) -> Package:
    """Choose what goes to the cluster: in a git repository what git does not ignore, elsewhere everything; both without
    repositories, virtual environments, caches, data and secrets.

    Raises:
        ConfigError: there is no such folder, it holds nothing, or too much; names the largest files.
    """
    if not root.is_dir():
        raise ConfigError("working_dir", str(root), "is not a folder")
    files, data, found_secrets = dict[str, int](), dict[str, int](), list[str]()
    for name in _listed(root):
        path = root / name
        if not path.is_file():
            continue  # removed, and git does not know yet; a link to a folder, or to nothing
        if _matches(path.name, _SECRETS):
            found_secrets.append(name)
        else:
            (data if _matches(path.name, _DATA) else files)[name] = path.stat().st_size
    package = Package(root, files, data, tuple(sorted(found_secrets)))
    if not files:
        raise ConfigError("working_dir", str(root), "holds no file that could be submitted")
    if package.num_bytes > most_bytes:
        largest = sorted(files, key=lambda name: -files[name])[:_LARGEST]
        named = ", ".join(f"{name} ({filesize.decimal(files[name])})" for name in largest)
        raise ConfigError(
            "working_dir",
            str(root),
            f"holds {filesize.decimal(package.num_bytes)}, more than {filesize.decimal(most_bytes)}: remove or ignore"
            f" (.gitignore) what the job does not need; largest: {named}",
        )
    return package


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _listed(root: Path) -> Iterator[str]:
    try:
        git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
        listed = subprocess.run(git, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        yield from _walked(root)
        return
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if not _FOLDERS & set(Path(name).parts[:-1]):
            yield name


def _walked(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _FOLDERS and not name.endswith(".egg-info") and not Path(folder, name, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            yield Path(folder, name).relative_to(root).as_posix()
