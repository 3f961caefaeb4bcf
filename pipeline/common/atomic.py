"""Files that appear whole or not at all: written under no name or another one, then put in place in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PREFIX = ".tmp-"
"""How the name of a file in the making begins; listings leave such names out."""

_HAS_UNNAMED = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")  # Linux
# What a file system without unnamed files answers; ENOENT: a folder that is a link of some network file systems.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@contextlib.contextmanager
def atomic_file(
    target: Path,
    *,
    mode: int = 0o666,
    sync: bool = True,
    replace: bool = True,
    folder: Path | None = None,
    prefix: str = PREFIX,
) -> Iterator[BinaryIO]:
    """A file to write to, which becomes ``target`` when the block ends; if the block fails, ``target`` stays as it was.

    The file has no name while it is written, so the kernel removes it with its process, however that ends. On file
    systems that cannot do this (NFS), a process that is killed leaves a file whose name begins with ``prefix``.

    Args:
        mode: permissions of the file, less the umask; 0o600 for what its user alone may read.
        sync: flush to disk first, so that a power cut leaves the old file or the new one.
        replace: False: never replace a file that is there.
        folder: where the file is made, on the file system of ``target``; default: the folder of ``target``.
        prefix: of the name that the file has for a moment, or while it is written where it needs one.

    Raises:
        FileExistsError: ``target`` exists and ``replace`` is False.
        OSError: the file cannot be written.
    """
    folder = target.parent if folder is None else folder
    file, name = _create(folder, mode, prefix)
    try:
        with file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            if name is None:
                link = target if not replace else folder / f"{prefix}{secrets.token_hex(8)}"
                # Given a descriptor, link() follows the link in /proc to the file that it stands for.
                os.link(f"/proc/self/fd/{file.fileno()}", link, src_dir_fd=file.fileno(), follow_symlinks=True)
                if not replace:
                    return
                name = link
            if not replace:
                os.link(name, target)  # unlike a rename, never replaces
                return
            os.replace(name, target)
            name = None
    finally:
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


@contextlib.contextmanager
def atomic_path(target: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """As ``atomic_file``, for libraries that write by name: yields the path of an empty file to write to.

    Raises:
        OSError: the file cannot be written.
    """
    name = target.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield name
        with name.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(name, target)
    finally:
        name.unlink(missing_ok=True)


def write_atomically(target: Path, data: bytes, *, mode: int = 0o666, sync: bool = True, replace: bool = True) -> None:
    """Write ``data`` to ``target`` in one step; arguments and errors as of ``atomic_file``."""
    with atomic_file(target, mode=mode, sync=sync, replace=replace) as file:
        file.write(data)


def _create(folder: Path, mode: int, prefix: str) -> tuple[BinaryIO, Path | None]:
    """A new file of that folder and its name; None: it has none."""
    if _HAS_UNNAMED:
        try:
            return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, mode), "w+b"), None
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
    name = folder / f"{prefix}{secrets.token_hex(8)}"
    return os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "w+b"), name
