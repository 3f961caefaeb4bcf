"""HMDB-51 lists: CLASS_test_splitN.txt with lines "FILE 1" (train), "FILE 2" (test) or "FILE 0" (not in this split).

Videos are at CLASS/FILE, or all in one folder.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.lists import Lists, clean_path
from preprocessing.annotations.locate import composed, located
from preprocessing.annotations.types import Annotations, Source
from preprocessing.sources import SourceStore
from preprocessing.sources.base import escapes

_FILE = re.compile(r"(?P<name>.+)_test_split(?P<index>\d+)\.txt")
_SPLITS = {"0": None, "1": "train", "2": "test"}
_FOLDERS = (
    "",
    "testTrainMulti_7030_splits/",
    "test_train_splits/",
)  # the last two: as published


def read_hmdb51(lists: Lists, store: SourceStore, split_index: int = 1) -> Annotations:
    """The lists of one split index; classes are the names of their files, sorted.

    Raises:
        UserError: no list, or a line that is wrong; with file and line.
    """
    files = {
        composed(found["name"]): name
        for name in lists.names(_FOLDERS)
        if (found := _FILE.fullmatch(PurePosixPath(name).name)) and int(found["index"]) == split_index
    }
    if not files:
        raise UserError(f"{lists.uri} has no CLASS_test_split{split_index}.txt: check --annotations and --split-index")
    classes = sorted(files)
    sources, flat = [], []
    seen: dict[str, str] = {}
    for label, class_name in enumerate(classes):
        for where, line in lists.lines(files[class_name]):
            name, _, number = line.rpartition(" ")
            name = name.strip()
            if not name or number not in _SPLITS:
                raise UserError(f"{where}: expected 'FILE NUMBER' with 0, 1 or 2, got {shown(line)}")
            path = clean_path(name if escapes(name) else f"{class_name}/{name}")
            if path in seen:
                raise UserError(f"{where}: {path} is already in {seen[path]}; a video belongs to one split, once")
            seen[path] = where
            if split := _SPLITS[number]:
                sources.append(Source(path=path, label=label, split=split))
                flat.append((name,))
    found = located(sources, store, alternatives=flat)
    return Annotations(classes=tuple(classes), sources=found).check(f"{lists.uri}/*_test_split{split_index}.txt")
