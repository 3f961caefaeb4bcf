"""Which videos there are, what each shows and which split it is in: folder trees and UCF-101 split files.

    folder    ROOT/CLASS/FILE (all of it the train split), or ROOT/SPLIT/CLASS/FILE with SPLIT in train, val, test
    ucf101    classInd.txt ("1 Name"), trainlist0N.txt ("Name/file.avi 1"), testlist0N.txt ("Name/file.avi"), and
              optionally vallist0N.txt in either form

A listed file that does not exist stays in the list: it becomes a reject with the reason ``missing``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One planned input."""

    path: str  # relative to the data set's root, with /
    label: int  # index into the class list
    split: str  # train, val or test
    start_s: float | None = None  # part of the file, in seconds; None: from the start
    end_s: float | None = None  # None: to the end

    @property
    def name(self) -> str:
        """Identity inside the data set: the path, and the part where only a part is meant."""
        if self.start_s is None and self.end_s is None:
            return self.path
        return f"{self.path}#{self.start_s or 0.0:g}-{'' if self.end_s is None else f'{self.end_s:g}'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """Class names in label order, and every source once."""

    classes: tuple[str, ...]
    sources: tuple[Source, ...]

    def check(self, where: str) -> Annotations:
        """Return self; UserError where a class has no training sample (``where`` names the list)."""
        present = {s.label for s in self.sources if s.split == "train"}
        empty = [name for label, name in enumerate(self.classes) if label not in present]
        if empty:
            raise UserError(f"{where}: no sample of the train split for {len(empty)} of {len(self.classes)} classes: {', '.join(empty[:5])}; list some or drop the class")
        return self


def read_folder(root: Path) -> Annotations:
    """Classes are the folders' names, sorted; hidden files and folders are left out.

    Raises:
        UserError: no folder, no class, or a class without training sample.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the one that holds the class folders")
    top = _folders(root)
    splits = [name for name in SPLITS if name in top]
    if splits and len(splits) != len(top):
        raise UserError(f"{root} holds both split folders ({', '.join(splits)}) and others ({', '.join(sorted(set(top) - set(splits))[:5])}): keep one kind")
    bases = {split: root / split for split in splits} or {"train": root}
    classes = sorted({name for base in bases.values() for name in _folders(base)})
    if not classes:
        raise UserError(f"{root} has no class folder: expected {root}/CLASS/FILE or {root}/train/CLASS/FILE")
    sources = []
    for split, base in bases.items():
        for label, name in enumerate(classes):
            files = sorted(p for p in (base / name).rglob("*") if p.is_file() and not p.name.startswith("."))
            sources += [Source(path=p.relative_to(root).as_posix(), label=label, split=split) for p in files]
    return Annotations(classes=tuple(classes), sources=tuple(sources)).check(str(root))


def read_ucf101(annotations: Path, split_index: int = 1) -> Annotations:
    """Read ``classInd.txt`` and the lists ``{train,val,test}list0N.txt`` of one split index.

    Raises:
        UserError: a list is missing, or a line is wrong; the message names the file and the line.
    """
    numbers = _class_numbers(annotations / "classInd.txt")
    order = sorted(numbers, key=lambda name: numbers[name])
    labels = {name: i for i, name in enumerate(order)}
    by_number = {numbers[name]: i for i, name in enumerate(order)}
    seen: dict[str, str] = {}
    sources = []
    for split in SPLITS:
        file = annotations / f"{split}list{split_index:02d}.txt"
        if not file.is_file():
            if split == "train":
                raise UserError(f"{file} does not exist: check --annotations and --split-index")
            continue
        for number, line in _lines(file):
            where = f"{file}:{number}"
            path, label = _entry(line, labels, by_number, where)
            if path in seen:
                raise UserError(f"{where}: {path} stands already in {seen[path]}; a video belongs to one split, once")
            seen[path] = where
            sources.append(Source(path=path, label=label, split=split))
    return Annotations(classes=tuple(order), sources=tuple(sources)).check(str(annotations / f"trainlist{split_index:02d}.txt"))


def check_source_root(root: Path, annotations: Annotations) -> None:
    """UserError where not one of the sources lies under ``root``: then the root is wrong, not every video missing."""
    if any((root / s.path).is_file() for s in annotations.sources):
        return
    first = annotations.sources[0].path
    near = next((p for p in (root / "videos", root.parent) if any((p / s.path).is_file() for s in annotations.sources[:1000])), None)
    raise UserError(f"none of the {len(annotations.sources)} listed videos is under {root} (first: {first})" + (f"; did you mean --source {near}?" if near else ": check --source"))


def _folders(base: Path) -> list[str]:
    return sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # lists edited on Windows start with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _class_numbers(file: Path) -> dict[str, int]:
    """Class name to its number in the list."""
    if not file.is_file():
        raise UserError(f"no class list: {file} does not exist; it has a line '1 Name' for every class")
    numbers: dict[str, int] = {}
    for number, line in _lines(file):
        index, _, name = line.partition(" ")
        name = name.strip()
        if not index.isdigit() or not name:
            raise UserError(f"{file}:{number}: expected 'NUMBER NAME', got {line!r}")
        if name in numbers or int(index) in numbers.values():
            raise UserError(f"{file}:{number}: class {line!r} stands twice")
        numbers[name] = int(index)
    if not numbers:
        raise UserError(f"{file} is empty: it has a line '1 Name' for every class")
    return numbers


def _entry(line: str, labels: dict[str, int], by_number: dict[int, int], where: str) -> tuple[str, int]:
    """Path and label of a line 'CLASS/FILE [NUMBER]'; file names may hold spaces."""
    path, _, tail = line.rpartition(" ")
    numbered = bool(path) and tail.isdigit()
    path = path.strip() if numbered else line
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or "#" in path:
        raise UserError(f"{where}: {path!r} must be a path below --source, with / and without '..' or '#'")
    top = parts[0] if len(parts) > 1 else ""
    folder = labels.get(top)
    if not numbered:
        if folder is None:
            raise UserError(f"{where}: {top!r} of {line!r} is not a class in classInd.txt")
        return path, folder
    label = by_number.get(int(tail))
    if label is None:
        raise UserError(f"{where}: label {tail} is not in classInd.txt")
    if folder is not None and folder != label:
        raise UserError(f"{where}: {path!r} lies in the folder of another class than its label {tail}")
    return path, label
