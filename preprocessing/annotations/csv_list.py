"""A list of your own: a CSV with the header path,label[,split][,start_s][,end_s].

    path,label,split,start_s,end_s
    walk/one.mp4,walk,train,,
    long.mp4,run,val,12.5,20

A label is a class name, or an index where classes.txt (one name per line) is next to the CSV. Without a split: train.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.lists import Lists, clean_path
from preprocessing.annotations.locate import composed, located
from preprocessing.annotations.names import one_spelling
from preprocessing.annotations.rows import Row, first_seen, ordered, seconds, split_name, unique
from preprocessing.annotations.types import Annotations, Source
from preprocessing.sources import SourceStore

_CLASSES = "classes.txt"
_INDEX = re.compile(r"[0-9]{1,9}")


def read_csv(lists: Lists, store: SourceStore) -> Annotations:
    """The CSV named, or the only one in the folder. Classes are those of ``classes.txt``, or the sorted names in the
    list.

    Raises:
        UserError: no list, or a row that is wrong; with file and line.
    """
    name = lists.only or _only_csv(lists)
    listed = _listed_classes(lists)
    rows = unique(_rows(lists, name, listed))
    if not rows:
        raise UserError(f"{lists.where(name)} lists no video")
    classes = listed or sorted(first_seen(rows))
    if not listed:
        one_spelling(first_seen(rows))
    labels = {name: i for i, name in enumerate(classes)}
    sources = [dataclasses.replace(row.item, label=labels[row.class_name]) for row in rows]
    return Annotations(classes=tuple(classes), sources=located(sources, store)).check(lists.where(name), train=False)


def _only_csv(lists: Lists) -> str:
    names = [name for name in lists.names() if PurePosixPath(name).suffix.lower() == ".csv"]
    if len(names) != 1:
        raise UserError(f"{lists.uri} has {len(names)} CSV files: give one, --annotations {lists.uri}/FILE.csv")
    return names[0]


def _listed_classes(lists: Lists) -> list[str]:
    if not lists.has(_CLASSES):
        return []
    places: dict[str, str] = {}
    for where, name in lists.lines(_CLASSES):
        if composed(name) in places:
            raise UserError(f"{where}: class {name!r} is already in {places[composed(name)]}")
        places[composed(name)] = where
    one_spelling(places)
    return list(places)


def _rows(lists: Lists, name: str, classes: list[str]) -> Iterator[Row[Source]]:
    known = set(classes)
    for where, row in lists.table(name, ("path", "label"), ("split", "start_s", "end_s")):
        path, label = clean_path(row["path"]), composed(row["label"])
        if not path or not label:
            raise UserError(f"{where}: {'path' if not path else 'label'} is empty: every row has a path and a label")
        if classes and label not in known:
            if not _INDEX.fullmatch(label) or int(label) >= len(classes):
                raise UserError(
                    f"{where}: label {shown(label)} is neither a class in {_CLASSES} nor an index from 0 to"
                    f" {len(classes) - 1}"
                )
            label = classes[int(label)]
        start_s = seconds(row["start_s"], where, "start_s") if row.get("start_s") else None
        end_s = seconds(row["end_s"], where, "end_s") if row.get("end_s") else None
        if end_s is not None:
            ordered(start_s or 0.0, end_s, where)
        source = Source(
            path=path, label=0, split=split_name(row.get("split") or "train", where), start_s=start_s, end_s=end_s
        )
        yield Row(where, source.name, label, source.split, source)
