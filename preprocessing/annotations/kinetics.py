"""Kinetics CSVs: label,youtube_id,time_start,time_end,split[,is_cc]; the official test list has no label.

A video is found by its file name in any folder: ``ID_000417_000427.mp4`` (a clip cut out already; if it is longer than
the annotated time, the rest is left out) or ``ID.mp4`` (the whole video, of which the annotated time is taken), with
any common extension. Of several files, one in a folder of its class is preferred, then one in a folder of its split.
A video's name is ``CLASS/ID_START_END.mp4``, however it was found.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.lists import Lists
from preprocessing.annotations.locate import composed
from preprocessing.annotations.names import KINETICS_400, comparable, in_order, one_spelling
from preprocessing.annotations.rows import SPLIT_NAMES, Row, first_seen, ordered, seconds, split_name, unique
from preprocessing.annotations.types import Annotations, Source
from preprocessing.sources import SourceStore
from preprocessing.sources.base import VIDEO_EXTENSIONS

log = logging.getLogger(__name__)
_FILE = re.compile(r"(?:kinetics[-_]?\d*[-_])?(train|val|valid|validate|validation|test)\.csv", re.IGNORECASE)
_TIMES = re.compile(r"_\d{6,}_\d{6,}\Z")
_RANK = {extension: i for i, extension in enumerate(VIDEO_EXTENSIONS)}
_ID = re.compile(r"[A-Za-z0-9_-]+\Z")


def read_kinetics(lists: Lists, store: SourceStore, *, any_classes: bool = False) -> Annotations:
    """All rows that have a label, with the files that exist in ``store``.

    Labels are positions in the sorted class names. A list of only some of the 400 classes is accepted with a warning:
    its labels count the classes that occur.

    Raises:
        UserError: no list, a row that is wrong, or a class that is not one of Kinetics-400; with file and line.
    """
    rows = unique(_rows(lists))
    if not rows:
        raise UserError(
            f"{lists.uri}: no row with a label: the official test list has none; add the train or validate list"
        )
    names = first_seen(rows)
    one_spelling(names)
    if not any_classes:
        KINETICS_400.check(names)
    classes = in_order(names)
    labels = {name: i for i, name in enumerate(classes)}
    finder = _Finder(store, {_video(row) for row in rows})
    sources = []
    for row in rows:
        start_s, end_s = row.item
        identity = f"{row.class_name.replace('/', '-')}/{row.key}.mp4"
        path, part = identity, (None, float(end_s - start_s))
        if cut := finder.find(row.key, row):
            path = cut
        elif whole := finder.find(_video(row), row):
            path, part = whole, (float(start_s), float(end_s))
        sources.append(
            Source(
                path=path,
                label=labels[row.class_name],
                split=row.split,
                start_s=part[0],
                end_s=part[1],
                identity=identity,
            )
        )
    return Annotations(classes=tuple(classes), sources=tuple(sources)).check(lists.uri, train=False)


def _rows(lists: Lists) -> Iterator[Row[tuple[int, int]]]:
    names = [name for name in lists.names() if lists.only or _FILE.fullmatch(name)]
    if not names:
        raise UserError(
            f"{lists.uri} has no Kinetics list (train.csv, validate.csv, kinetics-400_val.csv ...): check --annotations"
        )
    num_unlabelled = 0
    for name in names:
        found = _FILE.fullmatch(name)
        for where, row in lists.table(name, ("youtube_id", "time_start", "time_end"), ("label", "split", "is_cc")):
            if not row.get("label"):
                num_unlabelled += 1
                continue
            split = row.get("split") or (found[1] if found else "")
            if not _ID.match(row["youtube_id"]):
                raise UserError(
                    f"{where}: youtube_id {shown(row['youtube_id'])}: give the video's id: letters, digits, - and _"
                )
            start_s, end_s = (_whole_seconds(row[column], where, column) for column in ("time_start", "time_end"))
            ordered(start_s, end_s, where)
            key = f"{row['youtube_id']}_{start_s:06d}_{end_s:06d}"
            yield Row(where, key, composed(row["label"]), split_name(split, where), (start_s, end_s))
    if num_unlabelled:
        log.warning("%s: %d rows without a label are left out", lists.uri, num_unlabelled)


def _whole_seconds(text: str, where: str, column: str) -> int:
    value_s = seconds(text, where, column)
    if not value_s.is_integer():
        raise UserError(
            f"{where}: {column} {shown(text)}: Kinetics counts whole seconds; for other parts use --format csv"
        )
    return int(value_s)


def _video(row: Row[tuple[int, int]]) -> str:
    start_s, end_s = row.item
    return row.key.removesuffix(f"_{start_s:06d}_{end_s:06d}")


class _Finder:
    """Files by stem, from one walk; only those of the listed videos."""

    def __init__(self, store: SourceStore, videos: set[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        for path, _ in store.walk():
            stem, dot, extension = path.rpartition("/")[2].rpartition(".")
            if dot + extension.lower() in _RANK and (stem in videos or _TIMES.sub("", stem) in videos):
                self._paths.setdefault(stem, []).append(path)

    def find(self, stem: str, row: Row[tuple[int, int]]) -> str | None:
        """The file with that stem that fits the row best."""
        paths = self._paths.get(stem)
        if not paths:
            return None
        if len(paths) == 1:
            return paths[0]

        def rank(path: str) -> tuple[bool, bool, int, str]:
            folders = [comparable(part) for part in path.split("/")[:-1]]
            in_split = any(SPLIT_NAMES.get(folder) == row.split for folder in folders)
            return comparable(row.class_name) not in folders, not in_split, _RANK[path[path.rfind(".") :].lower()], path

        return min(paths, key=rank)
