"""Class folders: ROOT/CLASS/FILE (all of it the train split), or ROOT/SPLIT/CLASS/FILE with SPLIT in train, val,
test.
"""

from __future__ import annotations

from pipeline.errors import UserError
from preprocessing.annotations.locate import composed, top_folder
from preprocessing.annotations.types import SPLITS, Annotations, Source
from preprocessing.sources import SourceStore


def read_folder(store: SourceStore) -> Annotations:
    """Classes are the folders' names, sorted; hidden files and folders are left out, and so are files next to the class
    folders.

    A single top folder that comes from an archive (``UCF-101/CLASS/FILE``) is skipped: names start below it.

    Raises:
        UserError: no class, or a class without a training sample.
    """
    prefix = top_folder(store, levels=2)
    below = [(path, path[len(prefix) :]) for path, _ in store.walk() if path.startswith(prefix)]
    empty = [path for path in store.empty_folders() if not prefix]
    top = {name.partition("/")[0] for _, name in below if "/" in name} | {path.partition("/")[0] for path in empty}
    splits = [name for name in SPLITS if name in top]
    if splits and len(splits) != len(top):
        raise UserError(
            f"{store.uri} has both split folders ({', '.join(splits)}) and others"
            f" ({', '.join(sorted(top - set(splits))[:5])}): keep one kind"
        )
    found: list[tuple[str, str, str, str]] = []  # split, class, path, name
    for path, name in below:
        split, rest = name.split("/", 1) if splits and "/" in name else ("train", name)
        if "/" in rest:
            found.append((split, composed(rest.partition("/")[0]), path, name))
    classes = sorted(
        {cls for _, cls, _, _ in found}
        | {composed(path.split("/")[bool(splits)]) for path in empty if path.count("/") >= bool(splits)}
    )
    if not classes:
        raise UserError(
            f"{store.uri} has no class folder: expected {store.uri}/CLASS/FILE or {store.uri}/train/CLASS/FILE"
        )
    labels = {name: i for i, name in enumerate(classes)}
    order = {split: i for i, split in enumerate(SPLITS)}
    found.sort(key=lambda item: (order[item[0]], labels[item[1]], item[3]))
    sources = (
        Source(
            path=path,
            label=labels[cls],
            split=split,
            identity=None if path == name else Source(path=name, label=0, split=split).name,
        )
        for split, cls, path, name in found
    )
    return Annotations(classes=tuple(classes), sources=tuple(sources)).check(store.uri)
