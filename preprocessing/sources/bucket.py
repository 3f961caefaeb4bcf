"""Videos in object storage."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import NotFoundError, RejectedSource, StorageError
from pipeline.storage import Storage
from preprocessing.sources.base import PlainStore, escapes, hidden, temporary_copy, unsafe

log = logging.getLogger(__name__)
_CHUNK_BYTES = 16 << 20  # of a download: how much is in memory, and how much a cut connection costs


class BucketStore(PlainStore):
    """The objects below a prefix. A video is copied to the local disk, chunk by chunk, while it is used."""

    def __init__(self, storage: Storage, *, data_sets: bool = True) -> None:
        super().__init__(storage.uri, data_sets=data_sets)
        self.storage = storage

    def _list(self) -> Iterator[tuple[str, int]]:
        num_odd = 0
        for path, size, version in self.storage.list_versions():
            if path.endswith("/"):  # marks a folder
                continue
            if escapes(path) or "//" in path:
                num_odd += 1
            elif hidden(path):
                self._note_hidden(path)
            else:
                self._versions[path] = version
                yield path, size
        if num_odd:
            log.warning("%s: %d objects whose names are not paths (with '..' or '//') are left out", self.uri, num_odd)

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        if escapes(path):
            raise unsafe(path)
        try:
            path.encode()
            size = self.storage.size(path)
        except (NotFoundError, UnicodeEncodeError) as error:
            raise RejectedSource("missing", "no such object") from error

        def fill(file: BinaryIO) -> None:
            for offset in range(0, size, _CHUNK_BYTES):
                length = min(_CHUNK_BYTES, size - offset)
                chunk = self.storage.read_range(path, offset, length)
                if len(chunk) != length:
                    raise StorageError(
                        f"{self.uri}/{path} changed while it was read: {offset + len(chunk)} of {size} bytes"
                    )
                file.write(chunk)

        with temporary_copy(path, fill) as copy:
            yield copy

    def open(self, path: str, *, buffer_bytes: int = 1 << 16) -> BinaryIO:
        return io.BufferedReader(RangedFile(self.storage, path), buffer_bytes)  # type: ignore[return-value]

    def stat(self, path: str) -> tuple[int, str]:
        return self.storage.size(path), self.storage.version(path)


class RangedFile(io.RawIOBase):
    """An object as a file: every read is a ranged request, so wrap it in a buffer."""

    def __init__(self, storage: Storage, path: str) -> None:
        super().__init__()
        self._storage, self._path, self._position = storage, path, 0
        self._size = storage.size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._storage.read_range(self._path, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
