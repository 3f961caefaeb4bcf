"""Class folders of videos, or of pictures: ROOT/CLASS/FILE (all of it the train split), or ROOT/SPLIT/CLASS/FILE with
SPLIT in train, val, test.
"""

from __future__ import annotations

import logging

from pipeline.common.words import counted
from pipeline.errors import UserError
from preprocessing.annotations.locate import composed, top_folder
from preprocessing.annotations.types import SPLITS, Annotations, Source
from preprocessing.sources import SourceStore
from preprocessing.sources.base import PICTURE_EXTENSIONS
from preprocessing.sources.side_files import described, side_ending

log = logging.getLogger(__name__)
_NO_VIDEOS = ("file that is no video", "files that are no videos")
_NO_PICTURES = ("file that is no picture", "files that are no pictures")


def read_folder(store: SourceStore, *, pictures: bool = False) -> Annotations:
    """Classes are the folders' names, sorted; hidden files and folders are left out, and so are files next to the class
    folders, and files that are known to be no videos (``preprocessing.sources.side_files``), which are counted.

    A single top folder that comes from an archive (``UCF-101/CLASS/FILE``) is skipped: names start below it.

    Args:
        pictures: take files with the endings of pictures (``PICTURE_EXTENSIONS``) and no others.

    Raises:
        UserError: no class, or a class without a training sample.
    """
    beside_it = _no_picture if pictures else side_ending
    prefix = top_folder(store, levels=2, leave_out=beside_it)
    names = {path: path[len(prefix) :] for path, _ in store.walk() if path.startswith(prefix)}
    beside = [path for path in names if beside_it(path)]
    if beside:
        log.info(
            "%s: left out %s: %s",
            store.uri,
            counted(len(beside), *(_NO_PICTURES if pictures else _NO_VIDEOS)),
            described(beside, beside_it),
        )
    videos = names.keys() - beside
    empty = [path for path in store.empty_folders() if not prefix]
    top = {names[path].partition("/")[0] for path in videos if "/" in names[path]} | {
        path.partition("/")[0] for path in empty
    }
    splits = [name for name in SPLITS if name in top]
    if splits and len(splits) != len(top):
        raise UserError(
            f"{store.uri} has both split folders ({', '.join(splits)}) and others"
            f" ({', '.join(sorted(top - set(splits))[:5])}): keep one kind"
        )
    found: list[tuple[str, str, str, str]] = []  # split, class, path, name
    # A class of which only side files are there (half downloads, perhaps) is one without videos, not one that is gone.
    classes = {composed(path.split("/")[bool(splits)]) for path in empty if path.count("/") >= bool(splits)}
    for path, name in names.items():
        split, rest = name.split("/", 1) if splits and "/" in name else ("train", name)
        if "/" in rest and split in SPLITS:
            cls = composed(rest.partition("/")[0])
            classes.add(cls)
            if path in videos:
                found.append((split, cls, path, name))
    if not classes:
        raise UserError(
            f"{store.uri} has no class folder: expected {store.uri}/CLASS/FILE or {store.uri}/train/CLASS/FILE"
        )
    labels = {name: i for i, name in enumerate(sorted(classes))}
    order = {split: i for i, split in enumerate(SPLITS)}
    if pictures and (loose := len(videos) - len(found)):
        log.warning("%s: left out %s outside class folders", store.uri, counted(loose, "picture"))
    found.sort(key=lambda item: (order[item[0]], labels[item[1]], item[3]))
    sources = (
        Source(
            path=path,
            label=labels[cls],
            split=split,
            identity=None if path == name else Source(path=name, label=0, split=split).name,
            picture=pictures,
        )
        for split, cls, path, name in found
    )
    return Annotations(classes=tuple(labels), sources=tuple(sources)).check(store.uri)


def _no_picture(path: str) -> str:
    """What marks a file as no picture, its ending or its name; empty for a picture."""
    name = path.rpartition("/")[2].lower()
    stem, dot, last = name.rpartition(".")
    return "" if stem and f".{last}" in PICTURE_EXTENSIONS else f"{dot}{last}"
