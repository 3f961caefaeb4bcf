"""Members of archives in small databases on the local disk: looked up in microseconds, and not kept in memory.

They are in ``$RECIPROCAL_HOME/cache/archives`` and may be deleted while no job runs: they are built again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from pipeline.common.atomic import atomic_path
from pipeline.config.stack import home, state_folder
from pipeline.errors import StorageError

_COLUMNS = "name, archive, size, offset, packed_size, method, crc32, problem"
_FORMAT = 2  # increase it when the columns or their meaning change


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """One file in an archive."""

    name: str  # relative to the archive's folder
    size: int  # unpacked bytes
    offset: int  # tar: of the data (tar.gz: in the unpacked stream); zip: of the local header
    archive: int = 0  # which of several archives
    packed_size: int = 0  # bytes in the archive; 0 in a tar
    method: int = 0  # zip: compression
    crc32: int = 0  # zip
    problem: str = ""  # why it is not read: "REASON: DETAIL"


class Catalogue:
    """Read access to one file of members."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(
            f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._lock = threading.Lock()

    def find(self, name: str) -> ArchiveMember | None:
        """The member of that name; if several, a readable one."""
        with self._lock:
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM member WHERE name = ? ORDER BY problem LIMIT 1", (_bytes(name),)
            ).fetchone()
        return _member(row) if row else None

    def __iter__(self) -> Iterator[ArchiveMember]:
        with self._lock:
            yield from map(_member, self._connection.execute(f"SELECT {_COLUMNS} FROM member ORDER BY name, archive"))

    def close(self) -> None:
        self._connection.close()


def write_catalogue(file: Path, members: Iterable[ArchiveMember]) -> None:
    """Write ``members`` to a new file."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.execute(f"CREATE TABLE member ({_COLUMNS})")
        rows = (
            (_bytes(m.name), m.archive, m.size, m.offset, m.packed_size, m.method, m.crc32, _bytes(m.problem))
            for m in members
        )
        connection.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE INDEX by_name ON member (name)")
        connection.execute("COMMIT")


def cache_file(*parts: object, ending: str) -> Path:
    """The cache file that belongs to ``parts``."""
    text = "\0".join(map(str, (_FORMAT, *parts)))
    return (
        home().absolute()
        / "cache"
        / "archives"
        / f"{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.{ending}"
    )


def cached(file: Path, build: Callable[[Path], None]) -> Path:
    """``file``, built by ``build`` (which gets another name to write to) if it does not exist.

    Of several processes that call this at once, one builds and the others wait. The file appears whole or not at all.

    Raises:
        StorageError: the cache cannot be written.
    """
    if file.exists():
        return file
    try:
        state_folder("cache", "archives")
        with _locked(file.with_suffix(".lock")):
            if file.exists():
                return file
            with atomic_path(file, mode=0o600) as name:
                build(name)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"cannot write the archive index {file}: {error}; free some space, or set RECIPROCAL_HOME to another disk"
        ) from error
    return file


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        # Where the file system has no locks, several may build the same file, and the last one replaces the others'.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing releases the lock


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # names in archives need not be UTF-8


def _member(row: tuple) -> ArchiveMember:
    name, archive, size, offset, packed_size, method, crc32, problem = row
    return ArchiveMember(
        name=name.decode("utf-8", "surrogateescape"),
        archive=archive,
        size=size,
        offset=offset,
        packed_size=packed_size,
        method=method,
        crc32=crc32,
        problem=problem.decode("utf-8", "surrogateescape"),
    )
