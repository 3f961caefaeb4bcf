"""UCF-101 lists: classInd.txt ("1 Name"), {train,val,test}list0N.txt ("Name/file.avi 1", the number only where it
is known).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.lists import Lists, clean_path
from preprocessing.annotations.locate import composed
from preprocessing.annotations.rows import whole
from preprocessing.annotations.types import SPLITS, Annotations, Source


def read_ucf101(lists: Lists, split_index: int = 1) -> Annotations:
    """Read ``classInd.txt`` and the lists of one split index; all but the train list may be absent.

    Raises:
        UserError: a list is missing, or a line is wrong; the message names the file and the line.
    """
    numbers = _class_numbers(lists)
    order = sorted(numbers, key=lambda name: numbers[name])
    labels = {name: i for i, name in enumerate(order)}
    by_number = {numbers[name]: i for i, name in enumerate(order)}
    seen: dict[str, str] = {}
    sources = []
    for split in SPLITS:
        file = f"{split}list{split_index:02d}.txt"
        if not lists.has(file):
            if split == "train":
                raise UserError(f"{lists.where(file)} does not exist: check --annotations and --split-index")
            continue
        for where, line in lists.lines(file):
            path, label = _entry(line, labels, by_number, where)
            if path in seen:
                raise UserError(f"{where}: {path} is already in {seen[path]}; a video belongs to one split, once")
            seen[path] = where
            sources.append(Source(path=path, label=label, split=split))
    return Annotations(classes=tuple(order), sources=tuple(sources)).check(
        lists.where(f"trainlist{split_index:02d}.txt")
    )


def _class_numbers(lists: Lists) -> dict[str, int]:
    """Class name to its number in the list."""
    file = "classInd.txt"
    if not lists.has(file):
        raise UserError(f"no class list: {lists.where(file)} does not exist; it has a line '1 Name' for every class")
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for where, line in lists.lines(file):
        index, _, name = line.partition(" ")
        name = composed(name.strip())
        if not (index.isascii() and index.isdigit()) or not name:
            raise UserError(f"{where}: expected 'NUMBER NAME', got {shown(line)}")
        number = whole(index, where, "NUMBER")
        if name in numbers or number in taken:
            raise UserError(f"{where}: class {shown(line)} is listed twice")
        numbers[name] = number
        taken.add(number)
    if not numbers:
        raise UserError(f"{lists.where(file)} is empty: it has a line '1 Name' for every class")
    return numbers


def _entry(line: str, labels: dict[str, int], by_number: dict[int, int], where: str) -> tuple[str, int]:
    """Path and label of a line 'CLASS/FILE [NUMBER]'; file names may contain spaces."""
    path, _, tail = line.rpartition(" ")
    numbered = bool(path) and tail.isascii() and tail.isdigit()
    path = clean_path(path.strip() if numbered else line)
    parts = PurePosixPath(path).parts
    top = parts[0] if len(parts) > 1 else ""
    folder = labels.get(composed(top))
    if not numbered:
        if folder is None:
            raise UserError(f"{where}: {shown(top)} of {shown(line)} is not a class in classInd.txt")
        return path, folder
    label = by_number.get(whole(tail, where, "label"))
    if label is None:
        raise UserError(f"{where}: label {tail} is not in classInd.txt")
    if folder is not None and folder != label:
        raise UserError(f"{where}: {path!r} is in the folder of another class than its label {tail}")
    return path, label
