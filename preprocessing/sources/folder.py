"""Videos in a folder that this machine sees."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import NotFoundError, RejectedSource, StorageError
from preprocessing.sources.base import PlainStore, escapes, unsafe
from preprocessing.sources.data_sets import below

log = logging.getLogger(__name__)
# Errors for a name that does not exist, in contrast to a file system that fails.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_OUTSIDE = "a link that points outside the folder of the videos"
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR}


class FolderStore(PlainStore):
    """A folder. Links are followed while they stay inside it; one that points outside is never opened."""

    def __init__(self, root: Path, *, data_sets: bool = True) -> None:
        super().__init__(str(root), data_sets=data_sets)
        self.root = root
        self._empty: list[str] = []

    def _list(self) -> Iterator[tuple[str, int]]:
        real_root = os.path.realpath(self.root)
        self._empty, outside = [], list[str]()
        unlisted: list[str] = []
        # (path with a trailing slash, real path, real paths of the folders above it: a link to one of these is a loop)
        todo = [("", real_root, frozenset[str]())]
        while todo:
            folder, real, above = todo.pop()
            seen = False
            try:
                with os.scandir(real) as entries:
                    for entry in entries:
                        path = folder + entry.name
                        if entry.name.startswith("."):
                            self._note_hidden(path)
                            continue
                        seen = True
                        target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                        if entry.is_symlink() and not _within(target, real_root):
                            outside.append(path)
                            continue
                        try:
                            found = entry.stat()
                        except OSError:  # a link to nothing, or a file that is being removed
                            continue
                        if stat.S_ISREG(found.st_mode):
                            self._versions[path] = str(found.st_mtime_ns)
                            yield path, found.st_size
                        elif stat.S_ISDIR(found.st_mode) and target != real and target not in above:
                            todo.append((f"{path}/", target, above | {real}))
                if not seen:
                    self._empty.append(folder.rstrip("/"))
            except OSError as error:
                if not folder:
                    raise StorageError(f"cannot list {self.uri}: {error}") from error
                if error.errno not in _ABSENT | _UNREADABLE:
                    raise StorageError(f"cannot list {self.uri}/{folder}: {error}") from error
                unlisted.append(folder)
        if outside:
            log.warning(
                "%s: %d links that point outside are left out (first: %s); give the real folder as the source",
                self.uri,
                len(outside),
                min(outside),
            )
        if unlisted:
            log.warning(
                "%s: %d folders may not be read and are left out (first: %s)", self.uri, len(unlisted), min(unlisted)
            )

    def empty_folders(self) -> list[str]:
        self.listing()
        return sorted(path for path in self._empty if not below(path, self._left_out))

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        yield self._checked(path)

    def _checked(self, path: str) -> Path:
        if escapes(path):
            raise unsafe(path)
        target = self.root / path
        try:
            if not _within(os.path.realpath(target), os.path.realpath(self.root)):
                raise RejectedSource("unsafe_path", _OUTSIDE)
            found = target.stat()
        except OSError as error:
            if error.errno in _ABSENT:
                if not self.root.is_dir():  # an unmounted disk must not turn every video into a missing one
                    raise StorageError(f"{self.uri} is gone: is the disk still mounted?") from error
                raise RejectedSource("missing", "no such file") from error
            if error.errno in _UNREADABLE:
                raise RejectedSource("unreadable", os.strerror(error.errno)) from error
            raise StorageError(f"{self.uri}/{path}: {error}") from error
        if not stat.S_ISREG(found.st_mode):
            raise RejectedSource(
                "unreadable", "a folder, not a file" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            )
        if not os.access(target, os.R_OK):
            raise RejectedSource("unreadable", os.strerror(errno.EACCES))
        return target

    def open(self, path: str, *, buffer_bytes: int = 1 << 16) -> BinaryIO:
        try:
            return self._checked(path).open("rb", buffering=buffer_bytes)
        except RejectedSource as error:
            raise NotFoundError(f"{self.uri}/{path}: {error.detail}") from error
        except OSError as error:
            raise StorageError(f"{self.uri}/{path}: {error}") from error

    def stat(self, path: str) -> tuple[int, str]:
        try:
            found = self._checked(path).stat()
        except RejectedSource as error:
            raise NotFoundError(f"{self.uri}/{path}: {error.detail}") from error
        return found.st_size, str(found.st_mtime_ns)

    def refusal(self, path: str) -> RejectedSource:
        try:
            self._checked(path)  # no listing: every worker calls this
        except RejectedSource as error:
            return error
        return super().refusal(path)


def _within(real: str, real_root: str) -> bool:
    return real == real_root or real.startswith(real_root.rstrip("/") + "/")
