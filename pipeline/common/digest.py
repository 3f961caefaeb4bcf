"""sha256 of files and of whole folders, such that the standard tools give the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Of names and bytes of all files in a folder, at any depth, in hex. It is what this prints::

        cd FOLDER && find * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum

    Args:
        leave_out: files and folders directly in ``folder`` that do not count.
    """
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for name in sorted(os.fsencode(name) for name in names if name.parts[0] not in leave_out):
        digest.update(file_sha256(folder / os.fsdecode(name)).encode() + b"  " + name + b"\n")
    return digest.hexdigest()
