"""Checkpoints written by a thread while training goes on."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore, no_room
from pipeline.common.cli import one_line
from pipeline.errors import UserError
from pipeline.storage.scratch import scratch_folder

log = logging.getLogger(__name__)
Write = Callable[[Path], None]
"""Puts a checkpoint's files into a local folder. It runs in the thread: nothing that it reads may change."""


class CheckpointWriter:
    """Stores checkpoints one after another, in the background; of one thread.

    At most one is on the way: ``start`` waits for the one before. An error of the background work is raised by the next
    ``wait`` or ``start``.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.stored = ""
        """Name of the newest checkpoint that is stored."""

    def start(self, position: Position, metrics: Mapping[str, float], write: Write) -> None:
        """Begin to write and store a checkpoint; arguments as of ``CheckpointStore.save``."""
        self.wait()
        self._thread = threading.Thread(
            target=self._work, args=(position, dict(metrics), write), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is on the way.

        Raises:
            StorageError: the checkpoint could not be stored.
            UserError: there is no room in the folder for temporary files.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """``wait`` after another error, which counts more than one of this."""
        try:
            self.wait()
        except Exception as error:
            log.warning("the last checkpoint could not be stored: %s", one_line(error))

    def _work(self, position: Position, metrics: Mapping[str, float], write: Write) -> None:
        try:
            with _room_needed(), scratch_folder() as folder:
                write(folder)
                self.stored = self._store.save(folder, position, metrics)
            self._store.prune()
        except BaseException as error:
            self._error = error


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_room("the checkpoint cannot be written", error) from error
    # What torch and safetensors make of a full disk has no error number.
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"the checkpoint cannot be written to {tempfile.gettempdir()} ({one_line(error)}): free some space, or set"
            " TMPDIR to a folder with more"
        ) from error
