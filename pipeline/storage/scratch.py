"""Folders for temporary files that are removed soon after their process ended, even when it was killed.

``tempfile`` cleans up when a block is left; a process that is killed leaves its files forever, and workers of
preprocessing are killed by design: Ray ends them, and the kernel ends those that take too much memory. Here every
folder is locked by its owner (``flock``, which the kernel releases however the owner ends), and each process that makes
a new folder removes those without an owner.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.words import counted

log = logging.getLogger(__name__)
_PREFIX, _UNLOCKED_PREFIX = "reciprocal-scratch-", "reciprocal-new-"
_MAKING_S = 3600.0  # from its name's birth to its lock a folder needs microseconds
_open: set[tuple[int, Path]] = set()  # of this process, by its id: a fork must leave its parent's alone


@atexit.register
def _remove_open() -> None:
    """A thread that does not hold up the end of its process never leaves its block."""
    for process, folder in list(_open):
        if process == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder below TMPDIR. It is removed when the block is left or the process ends, and by ``remove_abandoned``
    after that was killed.

    Raises:
        OSError: TMPDIR is full or cannot be written.
    """
    remove_abandoned()
    made = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX))
    handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Under its final name a folder is always locked, so that one without a lock has no owner.
        folder = made.rename(made.with_name(_PREFIX + made.name.removeprefix(_UNLOCKED_PREFIX)))
        owned = os.getpid(), folder
        _open.add(owned)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _open.discard(owned)
    finally:
        os.close(handle)


def remove_abandoned() -> int:
    """Remove this user's scratch folders whose owners are gone; return how many."""
    removed = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith((_PREFIX, _UNLOCKED_PREFIX)):
                with contextlib.suppress(OSError):  # just removed by another process, or not a folder of ours
                    removed += _remove_if_abandoned(entry)
    if removed:
        log.info("removed %s for temporary files of processes that were killed", counted(removed, "folder"))
    return removed


def _remove_if_abandoned(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    if not entry.is_dir(follow_symlinks=False) or found.st_uid != os.getuid():
        return False
    if entry.name.startswith(_UNLOCKED_PREFIX) and time.time() - found.st_mtime < _MAKING_S:
        return False
    handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner lives
        shutil.rmtree(entry.path, ignore_errors=True)
    finally:
        os.close(handle)
    return True
