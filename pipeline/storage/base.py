"""The interface that both storages keep."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import NotFoundError, StorageError, StorageSetupError


class Storage(abc.ABC):
    """A folder of named byte strings. Paths are relative, with ``/``; objects appear whole or not at all.

    Instances hold no connection of their own, pickle, and may be used by several threads.
    """

    uri: str  # of the root, without a trailing slash

    @abc.abstractmethod
    def read(self, path: str, most: int | None = None) -> bytes:
        """Return a whole object. Raises NotFoundError, StorageError.

        Args:
            most: bytes; an object with more is refused (StorageSetupError) before it is read.
        """

    def _check_size(self, path: str, size: int, most: int) -> None:
        if size > most:
            raise StorageSetupError(f"{self.uri}/{path} has {size} bytes, too many for what it should be: look at it")

    @abc.abstractmethod
    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; fewer only where the object ends. Raises NotFoundError,
        StorageError.
        """

    @abc.abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Store ``data`` under ``path``, replacing what was there in one step. Raises StorageError."""

    @abc.abstractmethod
    def write_file(self, path: str, source: Path) -> None:
        """Store a local file's bytes under ``path`` (large files in parts). Raises StorageError."""

    @abc.abstractmethod
    def size(self, path: str) -> int:
        """Bytes of an object. Raises NotFoundError, StorageError."""

    @abc.abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Paths of all objects that start with ``prefix``, in lexical order, at any depth."""

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """As ``list``, with the bytes of each object, which a storage whose listing includes them need not request."""
        for path in self.list(prefix):
            yield path, self.size(path)

    def list_versions(self, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        """As ``list_sizes``, with the version of each object; empty where it has just gone."""
        for path, size in self.list_sizes(prefix):
            version = ""
            with contextlib.suppress(NotFoundError):
                version = self.version(path)
            yield path, size, version

    @abc.abstractmethod
    def version(self, path: str) -> str:
        """A short text that changes when the object does (its bytes are not read). Raises NotFoundError,
        StorageError.
        """

    @abc.abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object; an absent one is no error."""

    def exists(self, path: str) -> bool:
        """Whether there is an object at ``path``."""
        try:
            self.size(path)
        except NotFoundError:
            return False
        return True

    def within(self, deadline_s: float, on_retry: Callable[[], None] | None = None) -> Storage:
        """This storage, for requests that shall end within ``deadline_s`` whatever the server does; files know no such
        limit.

        Args:
            on_retry: called before a request is repeated; what it raises ends the request.
        """
        del deadline_s, on_retry
        return self

    def probe(self, *, write: bool) -> None:
        """Fail early: reach the storage, and with ``write`` store and remove a marker.

        Raises:
            StorageSetupError: bucket, credentials or endpoint are wrong; one line that says which and the fix.
        """
        try:
            next(iter(self.list("")), None)
            if write:
                # One name for all, so that commands that are killed here leave one marker at most, which the next
                # removes. It is gone where another command's probe has just done so: it has been written.
                with contextlib.suppress(NotFoundError):
                    self.write(".probe", b"reciprocal")
                self.delete(".probe")
        except StorageSetupError:
            raise
        except (OSError, StorageError) as error:  # a folder that cannot be made or written, a server that fails
            raise StorageSetupError(f"{self.uri} cannot be {'written' if write else 'read'}: {error}") from error
