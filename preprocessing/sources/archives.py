"""Members of a .tar, .tar.gz or .zip, and the bytes of one member, without unpacking the rest."""

from __future__ import annotations

import dataclasses
import functools
import gzip
from pathlib import Path
from typing import Any, BinaryIO

import indexed_gzip

from pipeline.common.atomic import atomic_path
from pipeline.errors import RejectedSource, StorageError, UserError
from preprocessing.sources.archive_formats import DAMAGE, chunks, tar_members, unzip, zip_members
from preprocessing.sources.base import PlainStore
from preprocessing.sources.catalogue import ArchiveMember, cache_file, cached, write_catalogue
from preprocessing.sources.gzip_access import index_gzip, read_gzip
from preprocessing.sources.limits import check_number, check_ratio

_KINDS = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip"}
OTHER_ARCHIVES = (".rar", ".7z", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_CHUNK_BYTES = 4 << 20


def archive_kind(path: str) -> str | None:
    """``tar``, ``tar.gz`` or ``zip`` by the file's name; None for a file that is no archive."""
    name = path.lower()
    return next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """One version of an archive."""

    path: str  # in its store
    size: int
    version: str

    @property
    def folder(self) -> str:
        """Prefix of its members' names: the archive's own folder."""
        return self.path[: self.path.rfind("/") + 1]

    def _cache(self, store: PlainStore, ending: str) -> Path:
        return cache_file(store.uri, self.path, self.size, self.version, ending=ending)

    def members(self, store: PlainStore) -> Path:
        """File of the catalogue of all members that are not hidden. Built if it does not exist, which reads a .tar.gz
        from start to end.

        Raises:
            UserError: the archive is damaged.
            StorageError: it cannot be read, or the cache cannot be written.
        """
        file = self._cache(store, "members")
        if archive_kind(self.path) == "tar.gz" and not self._cache(store, "points").exists():
            file.unlink(missing_ok=True)
        return cached(file, functools.partial(self._index, store))

    def _index(self, store: PlainStore, target: Path) -> None:
        kind, where = archive_kind(self.path), f"{store.uri}/{self.path}"
        try:
            with store.open(self.path, buffer_bytes=_CHUNK_BYTES if kind == "tar.gz" else 1 << 16) as file:
                if kind == "zip":
                    found = list(check_number(zip_members(file), where))
                elif kind == "tar":
                    found = list(check_number(tar_members(file), where))
                else:
                    with atomic_path(self._cache(store, "points"), mode=0o600) as points:
                        found = index_gzip(file, self.size, points, functools.partial(_members_of_stream, where))
        except (*DAMAGE, gzip.BadGzipFile, indexed_gzip.ZranError) as error:
            raise UserError(
                f"{where} is damaged or not a {kind} file ({error}): copy or download it again, or remove it from the"
                " source"
            ) from error
        except OSError as error:
            raise StorageError(f"{where}: {error}") from error
        last = {member.name: member for member in found}  # of several with one name, unpacking would keep the last
        write_catalogue(target, (dataclasses.replace(m, name=self.folder + m.name) for m in last.values()))

    def extract(self, store: PlainStore, member: ArchiveMember, file: BinaryIO) -> None:
        """Write the bytes of one member to ``file``.

        Raises:
            RejectedSource: ``unreadable``: the member is damaged; ``too_large``: it unpacks to far more than it takes.
            StorageError: the archive cannot be read.
        """
        kind = archive_kind(self.path)
        if kind != "tar":
            check_ratio(member.size, member.packed_size)
        if kind == "tar.gz":
            points = self._cache(store, "points")
            try:
                done = read_gzip(
                    points, lambda: store.open(self.path, buffer_bytes=1 << 20), member.offset, member.size, file.write
                )
            except indexed_gzip.ZranError as error:
                raise RejectedSource("unreadable", f"{self.path} is damaged there") from error
        else:
            with store.open(self.path, buffer_bytes=1 << 16) as archive:
                if kind == "zip":
                    done = unzip(archive, member, file.write)
                else:
                    archive.seek(member.offset)
                    done = sum(file.write(chunk) for chunk in chunks(archive, member.size))
        if done != member.size:
            raise RejectedSource("unreadable", f"{self.path} holds {done} of its {member.size} bytes")


def _members_of_stream(where: str, stream: Any) -> list[ArchiveMember]:
    """Of an unpacked stream of gzip, whose ``fileobj`` is the packed one."""
    return list(check_number(tar_members(stream, seekable=False, packed=stream.fileobj.tell), where))
