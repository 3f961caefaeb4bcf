"""Random access into .tar.gz: an index of access points, built in the same single pass that finds the members."""

from __future__ import annotations

import gzip
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import indexed_gzip

T = TypeVar("T")
# A read inflates half of this on average before its first byte, and a point takes 32 KiB of disk and of memory.
_SPACING_BYTES = 16 << 20
_MAX_POINTS = 4096
_READ_BYTES = 1 << 20
_OPEN = 4  # indexes held in memory by one process


class _Watched:
    """A file that passes every byte to ``sink``, once and in order, also if some are read again.

    It keeps the error of a failed read: the gzip library reports only that there was one.
    """

    def __init__(self, file: BinaryIO, sink: Callable[[bytes], object] = len) -> None:
        self._file, self._sink, self._seen = file, sink, 0
        self.read_error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        try:
            data = self._file.read(size)
        except BaseException as error:
            self.read_error = error
            raise
        if start <= self._seen < start + len(data):
            self._sink(data[self._seen - start :])
            self._seen = start + len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class _Pull:
    """The other end: a file that reads from a queue until it gets an empty chunk."""

    def __init__(self, chunks: queue.Queue[bytes]) -> None:
        self._pieces, self._left, self._ended, self._position = chunks, b"", False, 0

    def read(self, size: int = -1) -> bytes:
        if not self._left and not self._ended:
            self._left = self._pieces.get()
            self._ended = not self._left
        data = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(data) :]
        self._position += len(data)
        return data

    def tell(self) -> int:
        return self._position

    def drain(self) -> None:
        while not self._ended:
            self._ended = not self._pieces.get()


# By process, because a descriptor that crosses a fork shares its position.
_open: OrderedDict[tuple[int, Path], tuple[threading.Lock, _Watched, indexed_gzip.IndexedGzipFile]] = OrderedDict()
_open_lock = threading.Lock()


def index_gzip(file: BinaryIO, size: int, index: Path, scan: Callable[[BinaryIO], T]) -> T:
    """Write the access points of ``file`` to ``index``, and return what ``scan`` returns for the unpacked stream.

    Args:
        file: compressed; read once.
        size: its bytes.
        scan: reads a stream forwards.

    Raises:
        OSError, EOFError, zlib.error: the stream is damaged or ends early; and whatever ``file`` or ``scan`` raise.
    """
    chunks: queue.Queue[bytes] = queue.Queue(maxsize=4)
    tee, pull = _Watched(file, chunks.put), _Pull(chunks)

    def unpack() -> T:
        try:
            with gzip.GzipFile(fileobj=pull, mode="rb") as stream:  # type: ignore[arg-type]
                result = scan(stream)  # type: ignore[arg-type]
                while stream.read(_READ_BYTES):  # to the end, where the checksum is
                    pass
                return result
        finally:
            pull.drain()  # otherwise the other side would wait for space in the queue

    with ThreadPoolExecutor(1) as pool:
        unpacked = pool.submit(unpack)
        try:
            # No checksum here: the other side checks it, with a better message.
            points = indexed_gzip.IndexedGzipFile(
                fileobj=tee,
                spacing=max(_SPACING_BYTES, size // _MAX_POINTS),
                readbuf_size=_READ_BYTES,
                skip_crc_check=True,
            )
            points.build_full_index()
            while tee.read(_READ_BYTES):
                pass
        except indexed_gzip.ZranError:
            if tee.read_error is not None:
                raise tee.read_error from None
            chunks.put(b"")
            unpacked.result()  # the better message
            raise
        finally:
            chunks.put(b"")
        result = unpacked.result()
    points.export_index(str(index))
    return result


def read_gzip(
    index: Path, open_file: Callable[[], BinaryIO], offset: int, size: int, take: Callable[[bytes], object]
) -> int:
    """Give ``take`` the unpacked bytes starting at ``offset``, chunk by chunk; returns how many, up to ``size``.

    Raises:
        indexed_gzip.ZranError: the stream is damaged there; and whatever the file raises.
    """
    lock, file, stream = _reader(index, open_file)
    done = 0
    with lock:
        try:
            stream.seek(offset)
            while done < size and (data := stream.read(min(_READ_BYTES, size - done))):
                take(data)
                done += len(data)
        except indexed_gzip.ZranError:
            with _open_lock:
                _open.pop((os.getpid(), index), None)
            if file.read_error is not None:
                raise file.read_error from None
            raise
    return done


def _reader(
    index: Path, open_file: Callable[[], BinaryIO]
) -> tuple[threading.Lock, _Watched, indexed_gzip.IndexedGzipFile]:
    key = os.getpid(), index
    with _open_lock:
        if key not in _open:
            file = _Watched(open_file())
            stream = indexed_gzip.IndexedGzipFile(
                fileobj=file,
                index_file=str(index),
                readbuf_size=_READ_BYTES,
                buffer_size=_READ_BYTES,
                skip_crc_check=True,
            )
            _open[key] = threading.Lock(), file, stream
            if len(_open) > _OPEN:
                _open.popitem(last=False)  # closed when nobody reads from it any more
        _open.move_to_end(key)
        return _open[key]
