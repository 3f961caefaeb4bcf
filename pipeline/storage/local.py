"""Files below one folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import NotFoundError, StorageError
from pipeline.storage.base import Storage


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_PREFIX = ".tmp-"
_CAN_NAME = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")  # Linux
_UMASK = _umask()  # read once: reading means setting, which another thread could see


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[BinaryIO]:
    """A new file of that folder, without a name where the file system can do that: then the kernel removes it with its
    process, however that ends. Elsewhere (NFS) a process that is killed leaves a ``.tmp-`` file, which no listing
    shows.
    """
    try:
        if not _CAN_NAME:
            raise OSError(errno.EOPNOTSUPP, "no files without a name")
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    else:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_PREFIX, delete=False) as file:
        try:
            yield file  # type: ignore[misc]
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _name(file: BinaryIO, target: Path) -> None:
    """Put a temporary file in the place of ``target``, in one step."""
    name = file.name
    if isinstance(name, int):  # a descriptor: it has no name yet, and a link cannot replace a file
        name = str(target.parent / f"{_PREFIX}{secrets.token_hex(8)}")
        # With a descriptor given, link() follows the link in /proc to the file it stands for.
        os.link(f"/proc/self/fd/{file.fileno()}", name, src_dir_fd=file.fileno(), follow_symlinks=True)
    os.replace(name, target)


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
            with _temporary(target.parent) as file:
                fill(file)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # a temporary file is private, an object is not
                os.fsync(file.fileno())
                _name(file, target)
        except OSError as error:
            raise StorageError(f"cannot write {self.uri}/{path}: {error}") from error

    def size(self, path: str) -> int:
        target = self._path(path)
        if not target.is_file():
            raise NotFoundError(f"{self.uri}/{path} does not exist")
        return target.stat().st_size

    def list(self, prefix: str = "") -> Iterator[str]:
        found = (p for p in self.root.rglob("*") if p.is_file() and not p.name.startswith(_PREFIX))
        names = sorted(p.relative_to(self.root).as_posix() for p in found)
        return (name for name in names if name.startswith(prefix))

    def version(self, path: str) -> str:
        self.size(path)  # raises for what is absent
        found = self._path(path).stat()
        return f"{found.st_size}-{found.st_mtime_ns}"

    def delete(self, path: str) -> None:
        self._path(path).unlink(missing_ok=True)
