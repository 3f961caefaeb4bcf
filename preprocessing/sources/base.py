"""The interface of a store of source videos, and what all stores share."""

from __future__ import annotations

import abc
import contextlib
import errno
import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline.errors import RejectedSource, StorageError
from pipeline.storage.scratch import scratch_folder
from preprocessing.sources.data_sets import below, data_sets_in, marked_folder

VIDEO_EXTENSIONS = (
    ".mp4",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".ts",
    ".m2ts",
    ".mts",
    ".ogv",
)
"""Extensions of video files in lower case, the most common ones first."""
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp")
"""Extensions of picture files in lower case."""

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")
_CACHED = ("_listing", "_lock", "_versions")


class SourceStore(abc.ABC):
    """Videos by their path relative to ``uri``, with ``/``.

    Instances pickle small: the listing is not pickled, and files are opened again in the other process. Threads may
    share an instance.
    """

    uri: str

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._listing: dict[str, int] | None = None
        self._versions: dict[str, str] = {}
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _CACHED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._listing, self._versions, self._lock = None, {}, threading.RLock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    @abc.abstractmethod
    def _list(self) -> Iterator[tuple[str, int]]:
        """Every regular file that is not hidden, with its bytes, in any order; notes their versions in ``_versions``.
        Raises StorageError, UserError.
        """

    @abc.abstractmethod
    def local(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """A local file with one video: the video itself, or a copy that is removed afterwards.

        Raises:
            RejectedSource: ``missing``, ``unreadable``, or ``unsafe_path`` for one that would leave the store.
            StorageError: the storage failed or the local disk is full; the video may be good.
        """

    def listing(self) -> Mapping[str, int]:
        """Size in bytes of every file by its path, in lexical order; read once per process, by the first call."""
        with self._lock:
            if self._listing is None:
                self._listing = dict(sorted(self._list()))
            return self._listing

    def walk(self) -> Iterator[tuple[str, int]]:
        """Every file: (path, bytes), in lexical order. Hidden files and what is not a regular file are left out."""
        return iter(self.listing().items())

    def sizes(self, paths: Collection[str]) -> dict[str, int]:
        """Sizes in bytes of those ``paths`` that exist, from one listing."""
        listing = self.listing()
        return {path: listing[path] for path in paths if path in listing}

    def versions(self, paths: Collection[str]) -> dict[str, str]:
        """What tells a file of ``paths`` from another of the same name and size: the time of its last change, an
        object's ETag, for a member of an archive that of the archive. From one listing; comparable within this store.
        """
        self.listing()
        return {path: self._versions[path] for path in paths if path in self._versions}

    def packed(self, path: str) -> bool:
        """Whether ``path`` is inside an archive."""
        return False

    def empty_folders(self) -> list[str]:
        """Empty folders, if the store has folders."""
        return []

    def refusal(self, path: str) -> RejectedSource:
        """Why ``path`` is not in the listing: ``missing``, or what ``local`` raises if it exists and cannot be read.
        Does not list the store.
        """
        if escapes(path):
            return unsafe(path)
        return RejectedSource("missing", "no such file")


class PlainStore(SourceStore):
    """A store of plain files, which can also be read in part: archives are read through these two methods.

    Args:
        data_sets: whether data sets that ``jobs.preprocess`` made are listed; if not, their folders are left out.
    """

    def __init__(self, uri: str, *, data_sets: bool = True) -> None:
        super().__init__(uri)
        self._data_sets = data_sets
        self._marked: set[str] = set()  # folders that hidden files show to be data sets
        self._left_out: tuple[str, ...] = ()

    def _note_hidden(self, path: str) -> None:
        """Note what a hidden file says about its folder; ``_list`` calls it."""
        if (folder := marked_folder(path)) is not None:
            self._marked.add(folder)

    def listing(self) -> Mapping[str, int]:
        with self._lock:
            if self._listing is None and not self._data_sets:
                self._marked = set()
                found = dict(sorted(self._list()))
                self._left_out = data_sets_in(self.uri, found, self._marked)
                self._listing = {path: size for path, size in found.items() if not below(path, self._left_out)}
            return super().listing()

    @abc.abstractmethod
    def open(self, path: str, *, buffer_bytes: int = 1 << 16) -> BinaryIO:
        """A seekable file of the bytes at ``path``, for one thread, read in chunks of ``buffer_bytes``. Raises
        NotFoundError, StorageError.
        """

    @abc.abstractmethod
    def stat(self, path: str) -> tuple[int, str]:
        """(bytes, version) of a file; the version changes whenever the bytes do. Raises NotFoundError, StorageError."""


def escapes(path: str) -> bool:
    """Whether ``path`` could name something outside the store: absolute, empty, with ``..`` or a zero byte."""
    return not path or path.startswith("/") or ".." in path.split("/") or "\0" in path


def hidden(path: str) -> bool:
    """Whether the file or a folder above it starts with a dot."""
    return path.startswith(".") or "/." in path


def unsafe(path: str) -> RejectedSource:
    """The reject for a path that ``escapes``."""
    return RejectedSource("unsafe_path", f"{path!r} leaves the folder of the videos")


@contextlib.contextmanager
def temporary_copy(path: str, fill: Callable[[BinaryIO], None]) -> Iterator[Path]:
    """A file in the folder for temporary files (``TMPDIR``) that ``fill`` writes, removed at the end.

    Its name takes nothing but a plain extension from ``path``.

    Raises:
        StorageError: it cannot be written, for example because the disk is full.
    """
    extension = _EXTENSION.search(PurePosixPath(path).name)
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(scratch_folder()) / f"video{extension[0] if extension else ''}"
            with copy.open("wb") as file:
                fill(file)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "; free some space, or set TMPDIR to a folder with more" if full else ""
            raise StorageError(f"cannot copy {path} to {tempfile.gettempdir()}: {error}{fix}") from error
        yield copy
