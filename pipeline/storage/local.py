"""Files below one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.common.atomic import PREFIX, atomic_file
from pipeline.errors import NotFoundError, StorageError
from pipeline.storage.base import Storage


class LocalStorage(Storage):
    """``file:///FOLDER``. A write goes to a temporary file in its target's folder, is flushed to disk and takes its
    place.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.uri = f"file://{self.root}"

    def __repr__(self) -> str:
        return f"LocalStorage({str(self.root)!r})"

    def _path(self, path: str) -> Path:
        target = self.root / path
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise StorageError(f"{path!r} would leave {self.root}")
        return target

    def read(self, path: str) -> bytes:
        with self._open(path) as file:
            return file.read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._open(path) as file:
            file.seek(offset)
            return file.read(length)

    def _open(self, path: str):
        try:
            return self._path(path).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFoundError(f"{self.uri}/{path} does not exist") from error

    def write(self, path: str, data: bytes) -> None:
        self._replace(path, lambda file: file.write(data))

    def write_file(self, path: str, source: Path) -> None:
        with source.open("rb") as reader:
            self._replace(path, lambda file: shutil.copyfileobj(reader, file, 1 << 20))

    def _replace(self, path: str, fill: Callable[[BinaryIO], object]) -> None:
        target = self._path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(target) as file:
                fill(file)
        except OSError as error:
            raise StorageError(f"cannot write {self.uri}/{path}: {error}") from error

    def size(self, path: str) -> int:
        target = self._path(path)
        if not target.is_file():
            raise NotFoundError(f"{self.uri}/{path} does not exist")
        return target.stat().st_size

    def list(self, prefix: str = "") -> Iterator[str]:
        folder, _, start = prefix.rpartition("/")  # nothing beside them is looked at: a data set has many files
        tops = [top for top in self._path(folder).glob("*") if top.name.startswith(start)]
        below = (p for top in tops for p in ([top] if top.is_file() or top.is_symlink() else top.rglob("*")))
        found = (p for p in below if p.is_file() and not p.name.startswith(PREFIX))
        return iter(sorted(p.relative_to(self.root).as_posix() for p in found))

    def version(self, path: str) -> str:
        self.size(path)  # raises for what is absent
        found = self._path(path).stat()
        return f"{found.st_size}-{found.st_mtime_ns}"

    def delete(self, path: str) -> None:
        self._path(path).unlink(missing_ok=True)
