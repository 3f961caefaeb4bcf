"""A folder or bucket whose archives look as if they were unpacked in place."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pipeline.errors import RejectedSource, UserError
from preprocessing.sources.archives import OTHER_ARCHIVES, Archive, archive_kind
from preprocessing.sources.base import VIDEO_EXTENSIONS, PlainStore, SourceStore, escapes, temporary_copy, unsafe
from preprocessing.sources.catalogue import ArchiveMember, Catalogue, cache_file, cached, write_catalogue

log = logging.getLogger(__name__)
_THREADS = 8  # archives that are indexed at once: zip and tar wait for requests, tar.gz unpacks
_MAX_CATALOGUES = 4
_CATALOGUES: dict[tuple[int, Path], Catalogue] = {}  # open in this process (a connection must not cross a fork)
_CATALOGUES_LOCK = threading.Lock()


class PackedStore(SourceStore):
    """``base`` as if its archives were unpacked; with ``only``, just the members of that one archive.

    A path that is both a plain file and a member is read from the plain file. A pickled store knows the archives, not
    their members: another process looks these up in the cache of its machine, and indexes the archives if they are not
    in it yet.
    """

    def __init__(self, base: PlainStore, only: str | None = None) -> None:
        super().__init__(f"{base.uri}/{only}" if only else base.uri)
        self.base, self.only = base, only
        self._archives: tuple[Archive, ...] | None = None

    def _found_archives(self) -> tuple[Archive, ...]:
        """All archives; listed once."""
        with self._lock:
            if self._archives is None:
                paths = [self.only] if self.only else [path for path, _ in self.base.walk() if archive_kind(path)]
                with ThreadPoolExecutor(_THREADS) as pool:
                    self._archives = tuple(pool.map(self._archive, paths))
            return self._archives

    def _archive(self, path: str) -> Archive:
        size, version = self.base.stat(path)
        return Archive(path=path, size=size, version=version)

    def _catalogue(self) -> Catalogue | None:
        archives = self._found_archives()
        if not archives:
            return None
        file = cached(cache_file(self.base.uri, *map(dataclasses.astuple, archives), ending="catalogue"), self._merge)
        key = os.getpid(), file
        with _CATALOGUES_LOCK:
            if key not in _CATALOGUES:
                with ThreadPoolExecutor(_THREADS) as pool:  # the catalogue is of the archives as they were listed
                    for archive, now in zip(archives, pool.map(self._archive, [a.path for a in archives]), strict=True):
                        if now != archive:
                            raise UserError(
                                f"{self.base.uri}/{archive.path} changed while the job ran: run the command again"
                            )
                while len(_CATALOGUES) >= _MAX_CATALOGUES:
                    _CATALOGUES.pop(next(iter(_CATALOGUES)))
                _CATALOGUES[key] = Catalogue(file)
            return _CATALOGUES[key]

    def _merge(self, target: Path) -> None:
        archives = self._found_archives()
        num_bytes = sum(archive.size for archive in archives)
        log.info(
            "%s: indexing %d archives (%.1f GB), once; .tar.gz files are read from start to end",
            self.base.uri,
            len(archives),
            num_bytes / 1e9,
        )
        with ThreadPoolExecutor(_THREADS) as pool:
            files = list(pool.map(lambda archive: archive.members(self.base), archives))
        write_catalogue(target, self._all_members(files))

    def _all_members(self, files: Iterable[Path]) -> Iterator[ArchiveMember]:
        for number, file in enumerate(files):
            with contextlib.closing(Catalogue(file)) as catalogue:
                for member in catalogue:
                    yield dataclasses.replace(member, archive=number)

    def _list(self) -> Iterator[tuple[str, int]]:
        loose = {} if self.only else {path: size for path, size in self.base.walk() if not archive_kind(path)}
        self._versions = self.base.versions(loose)
        yield from loose.items()
        unread = [path for path in loose if path.lower().endswith(OTHER_ARCHIVES)]
        if unread:
            log.warning(
                "%s: %d archives in unsupported formats (first: %s): unpack them, or pack them as .tar or .zip",
                self.uri,
                len(unread),
                unread[0],
            )
        archives = self._found_archives()
        problems: Counter[str] = Counter()
        before: ArchiveMember | None = None
        num_repeated = 0
        for member in self._catalogue() or ():
            if member.problem:
                problems[member.problem] += 1
                log.debug("%s: %s: %s", archives[member.archive].path, member.name, member.problem)
                continue
            if before is not None and before.name == member.name:
                if PurePosixPath(member.name).suffix.lower() in VIDEO_EXTENSIONS:
                    raise UserError(
                        f"{self.uri}: {member.name} is in {archives[before.archive].path} and in"
                        f" {archives[member.archive].path}: keep one of the two"
                    )
                num_repeated += 1
                continue
            before = member
            if member.name not in loose:
                self._versions[member.name] = archives[member.archive].version
                yield member.name, member.size
            elif loose[member.name] != member.size:
                raise UserError(
                    f"{self.uri}: {member.name} is a file of {loose[member.name]} bytes, and one of {member.size} bytes"
                    f" in {archives[member.archive].path}: remove the wrong one"
                )
        for problem, count in problems.most_common():
            log.warning("%s: %d members of archives are left out (%s)", self.uri, count, problem.replace(": ", ", "))
        if num_repeated:
            log.info(
                "%s: %d members that are not videos are in several archives; the first is used", self.uri, num_repeated
            )

    def packed(self, path: str) -> bool:
        return path in self.listing() and (self.only is not None or path not in self.base.listing())

    def empty_folders(self) -> list[str]:
        if self.only:
            return []
        filled = {
            str(folder) for path in self.listing() for folder in PurePosixPath(path).parents
        }  # perhaps by an archive
        return [path for path in self.base.empty_folders() if path not in filled]

    def refusal(self, path: str) -> RejectedSource:
        if escapes(path):
            return unsafe(path)
        member = self._member(path)
        if member is not None and member.problem:
            return _reject(member)
        return super().refusal(path) if self.only else self.base.refusal(path)

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        if escapes(path):
            raise unsafe(path)
        refused = RejectedSource("missing", "no such file")
        if self.only is None:
            with contextlib.ExitStack() as stack:
                try:
                    file = stack.enter_context(self.base.local(path))
                except RejectedSource as error:
                    if error.reason != "missing":
                        raise
                    refused = error
                else:
                    yield file
                    return
        member = self._member(path)
        if member is None:
            raise refused
        if member.problem:
            raise _reject(member)
        archive = self._found_archives()[member.archive]
        with temporary_copy(path, lambda file: archive.extract(self.base, member, file)) as copy:
            yield copy

    def _member(self, path: str) -> ArchiveMember | None:
        catalogue = self._catalogue()
        return catalogue.find(path) if catalogue else None


def _reject(member: ArchiveMember) -> RejectedSource:
    reason, _, detail = member.problem.partition(": ")
    return RejectedSource(reason, detail)
