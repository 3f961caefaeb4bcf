"""Files below one folder."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.common.atomic import PREFIX, atomic_file
from pipeline.errors import NotAFileError, NotFoundError, StorageError, StorageSetupError
from pipeline.storage.base import Storage

# No file can have a name that is too long; ENXIO: a socket.
_TRIES = 10
_NO_SUCH_FILE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


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

    def read(self, path: str, most: int | None = None) -> bytes:
        with self._open(path) as file:
            if most is not None:
                self._check_size(path, os.fstat(file.fileno()).st_size, most)
            return file.read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._open(path) as file:
            file.seek(offset)
            return file.read(length)

    def _open(self, path: str) -> BinaryIO:
        """A regular file, for reading. A pipe or a device is not read: it may never end."""
        with self._named(path) as target:
            file = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(mode := os.fstat(file).st_mode):
            os.close(file)
            raise self._not_a_file(path, mode)
        return os.fdopen(file, "rb")

    def _not_a_file(self, path: str, mode: int) -> NotAFileError:
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        return NotAFileError(f"{self.uri}/{path} is not a file, but {kind}")

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[Path]:
        """The file's path, for one call of the operating system whose errors become ours."""
        target = self._path(path)
        try:
            yield target
        except PermissionError as error:
            raise StorageSetupError(f"{self.uri}/{path} cannot be read: {error.strerror}") from error
        except (OSError, ValueError) as error:  # ValueError: a null byte
            if isinstance(error, ValueError) or error.errno in _NO_SUCH_FILE:
                raise NotFoundError(f"{self.uri}/{path} does not exist") from error
            raise StorageError(f"{self.uri}/{path} cannot be read: {error.strerror}") from error

    def write(self, path: str, data: bytes) -> None:
        self._replace(path, lambda file: file.write(data))

    def write_file(self, path: str, source: Path) -> None:
        def fill(file: BinaryIO) -> None:
            with source.open("rb") as reader:
                shutil.copyfileobj(reader, file, 1 << 20)

        with source.open("rb"):  # what is missing is the caller's mistake, and no fault of the storage
            self._replace(path, fill)

    def _replace(self, path: str, fill: Callable[[BinaryIO], object]) -> None:
        target = self._path(path)
        for tries in itertools.count(1):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(target) as file:
                    fill(file)
                return
            # Another process has deleted the last object of the folder, and so that; or it is no folder.
            except (FileNotFoundError, FileExistsError) as error:
                if tries == _TRIES:
                    raise self._not_written(path, error) from error
            except OSError as error:
                raise self._not_written(path, error) from error

    def _not_written(self, path: str, error: OSError) -> StorageError:
        what = f"cannot write {self.uri}/{path}: {error}"
        if error.errno in _FULL:
            return StorageSetupError(f"{what}; make room there, or name a place that has it")
        if error.errno in _REFUSED:
            return StorageSetupError(f"{what}; let this user write there, or name a place where it may")
        return StorageError(what)

    def size(self, path: str) -> int:
        with self._named(path) as target:
            found = target.stat()
        if not stat.S_ISREG(found.st_mode):
            raise self._not_a_file(path, found.st_mode)
        return found.st_size

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
        target = self._path(path)
        try:
            target.unlink(missing_ok=True)
        except OSError as error:
            raise self._not_written(path, error) from error
        # Object storage has no folders: one whose last object went is gone.
        for folder in itertools.takewhile(lambda folder: folder != self.root, target.parents):
            try:
                folder.rmdir()
            except OSError:  # it holds something else
                break
