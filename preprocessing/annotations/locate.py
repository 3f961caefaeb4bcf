"""From listed paths to files of a store: other Unicode forms of a name, and a top folder that comes from an archive."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from pipeline.errors import UserError
from preprocessing.annotations.types import SPLITS, Annotations, Source
from preprocessing.sources import FolderStore, PackedStore, SourceStore, open_sources

log = logging.getLogger(__name__)
_TRIED = 1000  # listed videos that are looked up to find the folder of all of them


def composed(text: str) -> str:
    """NFC form: one code per character, however the file system stores it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Finder:
    """Looks up listed paths in one listing of a store."""

    def __init__(self, store: SourceStore) -> None:
        self.store = store
        self._files = store.listing()
        self._composed = {composed(path): path for path in self._files if not path.isascii()}
        self._prefixes: list[str] = [""]

    def find(self, *candidates: str) -> str | None:
        """The file of the first of ``candidates`` that exists."""
        for candidate in candidates:
            found = [path for prefix in self._prefixes if (path := self._exact(prefix + candidate)) is not None]
            if len(found) > 1:
                raise UserError(
                    f"{self.store.uri}: {candidate} is in several places ({', '.join(found[:3])}): keep one, or give"
                    " the archive that is meant as --source"
                )
            if found:
                return found[0]
        return None

    def _exact(self, path: str) -> str | None:
        return (
            path
            if path in self._files
            else self._composed.get(composed(path))
            if self._composed or not path.isascii()
            else None
        )

    def look_below(self, listed: Sequence[tuple[str, ...]]) -> None:
        """If no listed video is at the root and archives have top folders of their own, look below these.

        Args:
            listed: the candidates of every video. A user can name a folder as the source, but not one inside an
                archive.
        """
        if any(self.find(*candidates) for candidates in listed):
            return
        if prefixes := [prefix for prefix, packed in self.prefixes(listed) if packed]:
            log.info("%s: looking for the listed videos below %s", self.store.uri, ", ".join(prefixes[:5]))
            self._prefixes = prefixes

    def prefixes(self, listed: Sequence[tuple[str, ...]]) -> list[tuple[str, bool]]:
        """Folders (with a slash) that contain some of the first listed videos, most first, and whether they are in
        archives.
        """
        wanted: dict[str, list[str]] = {}
        for candidates in listed[:_TRIED]:
            for candidate in candidates:
                wanted.setdefault(composed(PurePosixPath(candidate).name), []).append(composed(candidate))
        counts: Counter[tuple[str, bool]] = Counter()
        for path in self._files:
            form = composed(path)
            for candidate in wanted.get(form.rpartition("/")[2], ()):
                if form.endswith("/" + candidate):
                    counts[
                        path[: len(path) - len(candidate)] if len(path) == len(form) else form[: -len(candidate)],
                        self.store.packed(path),
                    ] += 1
        return [place for place, _ in counts.most_common()]


def located(
    sources: Sequence[Source], store: SourceStore, *, alternatives: Sequence[tuple[str, ...]] = ()
) -> tuple[Source, ...]:
    """``sources`` with the paths of their files; their names stay as in the list. What is not found stays as
    listed.

    Args:
        alternatives: more paths to try for every source.

    Raises:
        UserError: two listed videos are found at the same file.
    """
    finder = Finder(store)
    listed = [(source.path, *more) for source, more in zip(sources, alternatives or [()] * len(sources), strict=True)]
    finder.look_below(listed)
    result: list[Source] = []
    taken: dict[str, str] = {}
    for source, candidates in zip(sources, listed, strict=True):
        found = finder.find(*candidates)
        if found is not None and (other := taken.setdefault(found, source.path)) != source.path:
            raise UserError(
                f"{store.uri}: {other} and {source.path} are both found at {found}: put the videos into folders as the"
                " lists name them"
            )
        result.append(
            source if found in (None, source.path) else dataclasses.replace(source, path=found, identity=source.name)
        )
    return tuple(result)


def check_source_root(store: SourceStore, annotations: Annotations) -> None:
    """UserError if none of the sources is in the store: then the root is wrong; not every video is missing."""
    if store.sizes([s.path for s in annotations.sources]):
        return
    finder, first = Finder(store), annotations.sources[0].path
    near = [
        f"{store.uri}/{prefix.rstrip('/')}"
        for prefix, packed in finder.prefixes([(s.path,) for s in annotations.sources])
        if not packed
    ]
    root = store.base.root if isinstance(store, PackedStore) and isinstance(store.base, FolderStore) else None
    if not near and root is not None and any((root.parent / s.path).is_file() for s in annotations.sources[:_TRIED]):
        near = [str(root.parent)]
    fix = f"; did you mean --source {near[0]}?" if near else ": check --source"
    raise UserError(f"none of the {len(annotations.sources)} listed videos is under {store.uri} (first: {first}){fix}")


def top_folder(store: SourceStore, *, levels: int, leave_out: Callable[[str], object] = lambda _: False) -> str:
    """The folder (with a slash) that contains everything, if it comes from an archive; else an empty string.

    Args:
        levels: how many levels of folders and files must be left below it.
        leave_out: whether a file does not count, such as a README beside the folder.
    """
    prefix = ""
    while True:
        tops: set[str] = set()
        for path, _ in store.walk():
            if leave_out(path):
                continue
            rest = path[len(prefix) :]
            tops.add(rest.partition("/")[0])
            if len(tops) > 1 or rest.count("/") < levels or not store.packed(path):
                return prefix
        if not tops or tops <= set(SPLITS):
            return prefix
        prefix += f"{tops.pop()}/"


def as_store(place: object) -> SourceStore:
    """``place`` itself, or the store at that path."""
    return place if isinstance(place, SourceStore) else open_sources(str(place))
