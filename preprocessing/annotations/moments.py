"""Moments in Time: trainingSet.csv and validationSet.csv without a header ("clapping/name.mp4,clapping,3,0"),
moments_categories.txt.

Videos are at training/CLASS/FILE and validation/CLASS/FILE, which are also their names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.lists import Lists, clean_path
from preprocessing.annotations.locate import composed, located
from preprocessing.annotations.names import MOMENTS_339, one_spelling
from preprocessing.annotations.rows import Row, unique, whole
from preprocessing.annotations.types import Annotations, Source
from preprocessing.sources import SourceStore

log = logging.getLogger(__name__)
_CATEGORIES = "moments_categories.txt"
_LISTS = {"trainingSet.csv": ("train", "training"), "validationSet.csv": ("val", "validation")}


def read_moments(lists: Lists, store: SourceStore, *, any_classes: bool = False) -> Annotations:
    """Both lists, or the one that is there, with labels as in ``moments_categories.txt``.

    Raises:
        UserError: no list, a row that is wrong, or a class that is not one of Moments in Time; with file and line.
    """
    labels = _categories(lists, any_classes)
    rows = unique(_rows(lists, labels))
    sources = [Source(path=row.key, label=labels[row.class_name], split=row.split) for row in rows]
    # A source may be the folder training or validation itself; with both lists its videos could be of either split.
    one_split = len({row.split for row in rows}) == 1
    found = located(sources, store, alternatives=[(row.item,) if one_split else () for row in rows])
    return Annotations(classes=tuple(labels), sources=found).check(lists.uri, train=False)


def _categories(lists: Lists, any_classes: bool) -> dict[str, int]:
    """Class names to labels, in the order of the labels; lines are "name,index", or only names, in order."""
    numbers: dict[str, int] = {}
    places: dict[str, str] = {}
    for where, line in lists.lines(_CATEGORIES):
        name, comma, index = line.rpartition(",")
        name, index = (composed(name.strip()), index.strip()) if comma else (composed(line), str(len(numbers)))
        if not name or not (index.isascii() and index.isdigit()):
            raise UserError(f"{where}: expected 'NAME,INDEX', got {shown(line)}")
        if name in numbers:
            raise UserError(f"{where}: class {name!r} is already in {places[name]}")
        numbers[name], places[name] = whole(index, where, "INDEX"), where
    if not numbers:
        raise UserError(f"{lists.where(_CATEGORIES)} is empty: it has a line 'NAME,INDEX' for every class")
    one_spelling(places)
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(
            f"{lists.where(_CATEGORIES)}: the indices of its {len(numbers)} classes must be 0 to {len(numbers) - 1},"
            " each once"
        )
    if not any_classes:
        MOMENTS_339.check(places)
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _rows(lists: Lists, labels: dict[str, int]) -> Iterator[Row[str]]:
    names = [name for name in _LISTS if lists.has(name)]
    if not names:
        raise UserError(f"{lists.uri} has neither {' nor '.join(_LISTS)}: check --annotations")
    num_elsewhere = 0
    for name in names:
        split, folder = _LISTS[name]
        for where, row in lists.rows(name):
            if len(row) < 2 or not row[0]:
                raise UserError(
                    f"{where}: expected 'CLASS/FILE,CLASS,POSITIVE,NEGATIVE' (the lists have no header), got"
                    f" {shown(','.join(row))}"
                )
            path, class_name = clean_path(row[0]), composed(row[1])
            if class_name not in labels:
                raise UserError(
                    f"{where}: class {class_name!r} is not in {_CATEGORIES} (the lists have no header): correct one of"
                    " the two"
                )
            for number, column in zip(row[2:4], ("POSITIVE", "NEGATIVE"), strict=False):
                whole(number, where, f"{column} (workers' answers)")
            num_elsewhere += composed(path.rpartition("/")[0]) != class_name
            yield Row(where, f"{folder}/{path}" if not path.startswith("/") else path, class_name, split, path)
    if num_elsewhere:
        log.warning(
            "%s: %d videos are in a folder that is not named like their class; the class in the list is used",
            lists.uri,
            num_elsewhere,
        )
