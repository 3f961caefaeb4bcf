"""A bounded cache of samples on a local disk, shared by all processes that name the same folder.

    FOLDER/total           eight bytes: how many bytes are stored or about to be; locked (flock) while it is changed
    FOLDER/sweeping        locked by the process that evicts
    FOLDER/ab/cdef...      one byte range of one tar of one data set version; its times are those of the last read
    FOLDER/new-...         being written, locked by its writer; without a lock its writer is gone, and it is removed

Nothing here guarantees the bytes: the reader compares checksums, so a file that a power cut or a bad disk has damaged
costs a GET. A file gets its name when it is whole. Space is reserved in the total before a file is written, so the
files never exceed the limit by more than those in flight; a process that is killed in between leaves a total that is
too large, until the next sweep counts again.

The file that was read longest ago goes first, but none that was read since this cache was opened: an epoch reads every
sample once, in random order, so the oldest file is as likely to be wanted next as any other. Replacing it would leave a
cache of half a data set with 15 % of hits (1 - (1-f)(1 - ln(1-f)) of a share f) instead of 50 %.

No failure of the cache fails the run: it logs a warning and continues without.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.atomic import atomic_file

log = logging.getLogger(__name__)

_NEW = "new-"
_SWEEP_TO = 0.9  # of the limit: a sweep stats every file, so it must make room for many
_PAUSE_S = 60.0  # after a sweep that found nothing to evict
_MARGIN_S = 1.0  # clocks of file systems are coarse
_TOTAL = struct.Struct("<q")


def stored_total(folder: Path) -> int:
    """Bytes that the caches of this folder say it holds; 0 where there is none."""
    try:
        stored = (folder / "total").read_bytes()
    except OSError:
        return 0
    return _TOTAL.unpack(stored)[0] if len(stored) == _TOTAL.size else 0


class DiskCache:
    """See the module. Safe for threads and processes; returns None or does nothing instead of raising.

    Args:
        folder: made where it does not exist.
        limit_bytes: of all files together.
        digest: of the manifest; part of every name, so that data sets can share a folder.
    """

    def __init__(self, folder: str | Path, limit_bytes: int, digest: str) -> None:
        self.folder, self.limit_bytes, self._digest = Path(folder), limit_bytes, digest
        self._lock = threading.Lock()
        self._opened_s = time.time() - _MARGIN_S
        self._full_until_s = 0.0
        self._reads = self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep_leftovers()
        except OSError as error:
            self._disable(error, reads=False)

    def get(self, tar: str, offset: int, size: int) -> bytes | None:
        """What is stored for a byte range, unchecked; None where nothing is."""
        if not self._reads:
            return None
        try:
            with self._path(tar, offset, size).open("rb") as file:
                data = file.read(size + 1)
                with contextlib.suppress(OSError):  # a folder that may only be read
                    os.utime(file.fileno())
                return data
        except FileNotFoundError:
            return None
        except OSError as error:
            self._disable(error, reads=False)
            return None

    def put(self, tar: str, offset: int, size: int, data: bytes) -> None:
        """Store a byte range, where there is room or older files can go."""
        path = self._path(tar, offset, size)
        try:
            if not self._writes or path.exists() or not self._reserve(len(data)):
                return
            path.parent.mkdir(exist_ok=True)
            with atomic_file(path, mode=0o600, sync=False, folder=self.folder, prefix=_NEW) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(data)
        except FileNotFoundError:
            pass  # swept between its birth and its lock, or somebody empties the folder
        except OSError as error:
            self._disable(error, reads=True)

    def drop(self, tar: str, offset: int, size: int) -> None:
        """Remove what is stored for a byte range."""
        with contextlib.suppress(OSError):
            path = self._path(tar, offset, size)
            num_bytes = path.stat().st_size
            path.unlink()
            self._add(-num_bytes)

    def stored_bytes(self) -> int:
        """Bytes of all files, counted one by one."""
        return sum(size for _, size, _ in self._files())

    def _path(self, tar: str, offset: int, size: int) -> Path:
        name = hashlib.sha256(f"{self._digest}\n{tar}\n{offset}\n{size}".encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _disable(self, error: OSError, *, reads: bool) -> None:
        with self._lock:
            first, self._writes, self._reads = self._writes and self._reads, False, self._reads and reads
        if first:
            log.warning(
                "the cache in %s (data.cache_dir) is %s from now on: %s",
                self.folder,
                "not filled" if reads else "not used",
                error,
            )

    @contextlib.contextmanager
    def _total(self) -> Iterator[tuple[int, int]]:
        """The total and the descriptor of its file, locked against threads and processes."""
        with self._lock:
            descriptor = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # goes with the descriptor
                stored = os.pread(descriptor, _TOTAL.size, 0)
                yield _TOTAL.unpack(stored)[0] if len(stored) == _TOTAL.size else self.stored_bytes(), descriptor
            finally:
                os.close(descriptor)

    def _add(self, num_bytes: int, limit: int | None = None) -> bool:
        """Change the total, unless that would take it above ``limit``; whether it was changed."""
        with self._total() as (total, descriptor):
            if limit is not None and total + num_bytes > limit:
                return False
            os.pwrite(descriptor, _TOTAL.pack(max(0, total + num_bytes)), 0)
            return True

    def _reserve(self, num_bytes: int) -> bool:
        if num_bytes > self.limit_bytes or time.monotonic() < self._full_until_s:
            return False
        if self._add(num_bytes, self.limit_bytes):
            return True
        return self._evict(num_bytes) and self._add(num_bytes, self.limit_bytes)

    def _evict(self, num_bytes: int) -> bool:
        """Remove the files that were read longest ago; False at once where another thread or process is doing so."""
        with (self.folder / "sweeping").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._sweep_leftovers()
            with self._total() as (before, descriptor):
                os.pwrite(
                    descriptor, _TOTAL.pack(before), 0
                )  # where there was none, the next count must not find what is evicted now
            files = sorted(self._files())
            counted = left = sum(size for _, size, _ in files)
            for read_s, size, path in files:
                if left + num_bytes <= _SWEEP_TO * self.limit_bytes or read_s >= self._opened_s:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                left -= size
            self._add(left - before)  # what others have taken in the meantime stays in the total
            if left + num_bytes > self.limit_bytes:
                self._full_until_s = time.monotonic() + _PAUSE_S
                return False
            log.info("cache in %s: evicted %.1f of %.1f MB", self.folder, (counted - left) / 1e6, counted / 1e6)
            return True

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """(time of the last read, bytes, path) of every stored file."""
        with os.scandir(self.folder) as folders:
            names = [entry.path for entry in folders if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)]
        for name in names:
            with contextlib.suppress(FileNotFoundError), os.scandir(name) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime, found.st_size, entry.path

    def _sweep_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed."""
        with os.scandir(self.folder) as entries:
            names = [entry.path for entry in entries if entry.name.startswith(_NEW)]
        for name in names:
            with contextlib.suppress(FileNotFoundError, BlockingIOError), open(name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
                os.unlink(name)
