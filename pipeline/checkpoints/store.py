"""The checkpoints of one run: stored whole, fetched verified, the newest sound one found, old ones pruned."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from pipeline.checkpoints.listing import SET_ASIDE, Entry, State, best_of, entries, folder_name, has_record
from pipeline.checkpoints.record import RECORD, CheckpointRecord, Position, StoredFile, read_record, record_of
from pipeline.common.strict_json import MAX_BYTES, JsonError
from pipeline.errors import DamagedCheckpointError, NotFoundError, StorageError, UserError
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder

log = logging.getLogger(__name__)
_PIECE_BYTES = 32 << 20  # of a file that is fetched: what memory it takes
_FIX = "restore it, or use another checkpoint"

Check = Callable[[Path], object]
"""Raises UserError where the files of a checkpoint of older code cannot be read."""


class CheckpointStore:
    """The checkpoints in a run's folder. Cheap to make, picklable; one rank at a time writes.

    Args:
        run: storage of the run's folder.
        keep: of the newest whole checkpoints so many are kept.
        keep_best: metric by which the best one is kept besides; empty: none.
    """

    def __init__(self, run: Storage, *, keep: int = 2, keep_best: str = "") -> None:
        self.run, self.keep, self.keep_best = run, keep, keep_best

    def entries(self) -> list[Entry]:
        """All of them, newest first, also those of attempts that were killed."""
        return entries(self.run)

    def best(self) -> tuple[Entry, float] | None:
        """The best by ``keep_best``, and its value.

        Raises:
            DamagedCheckpointError: the best one is damaged, as its files' sizes show.
        """
        if not self.keep_best:
            return None
        found = best_of(self.entries(), self.keep_best, (State.WHOLE, State.DAMAGED))
        if found and found[0].state is State.DAMAGED:
            raise DamagedCheckpointError(f"{found[0].problem}: {_FIX}")
        return found

    def save(self, folder: Path, position: Position, metrics: Mapping[str, float]) -> str:
        """Store a local folder's files, their record last; returns the checkpoint's name.

        Args:
            metrics: those measured at ``position``.

        Raises:
            StorageError: it could not be stored; what is there of it is half a checkpoint, which nobody takes.
        """
        record, name = record_of(folder, position, metrics), self._free_name(position.global_step)
        for file in record.files:
            self.run.write_file(f"{name}/{file.name}", folder / file.name)
        self.run.write(f"{name}/{RECORD}", record.to_json())
        return name

    def _free_name(self, global_step: int) -> str:
        """A folder that does not exist: a half or damaged checkpoint of the same step is not written into."""
        taken = {path.partition("/")[0] for path in self.run.list(folder_name(global_step))}
        number = 1
        while (name := folder_name(global_step, number)) in taken:
            number += 1
        return name

    @contextlib.contextmanager
    def fetch(self, name: str, only: Collection[str] | None = None) -> Iterator[Path]:
        """A temporary local folder with the files of a checkpoint, their sizes and sha256 verified.

        Args:
            only: names of the files wanted; default: all. One of older code, which has no record, is not verified.

        Raises:
            DamagedCheckpointError: a file is missing or has other bytes than were written, after a second read too.
            UserError: there is no such checkpoint, or no room in the folder for temporary files.
        """
        wanted = self._wanted(name, only)
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(scratch_folder())
                for file, expected in wanted.items():
                    self._fetch_file(name, file, expected, folder / file)
            except OSError as error:
                raise no_room(f"checkpoint {self.run.uri}/{name} cannot be fetched", error) from error
            yield folder

    def read(self, name: str, file: str) -> bytes:
        """One verified file of a checkpoint; errors as of ``fetch``."""
        with self.fetch(name, only=(file,)) as folder:
            return (folder / file).read_bytes()

    def _wanted(self, name: str, only: Collection[str] | None) -> dict[str, StoredFile | None]:
        """The files to fetch and what they must be; None: not known."""
        record = self.record(name)
        if record is not None:
            known = {file.name: file for file in record.files}
            for file in only or ():
                if file not in known:
                    raise DamagedCheckpointError(f"{self.run.uri}/{name} has no {file}: {_FIX}")
            return {file: known[file] for file in (known if only is None else only)}
        if only is None:
            files = (path.removeprefix(f"{name}/") for path in self.run.list(f"{name}/"))
            only = [file for file in files if "/" not in file]  # reports of an evaluation are in folders
        return dict.fromkeys(only)

    def named(self, name: str) -> str:
        """``name``, if it is a checkpoint that can be loaded. Raises UserError, which says which ones can."""
        usable = [entry.name for entry in self.entries() if entry.usable]
        if name not in usable:
            raise UserError(f"{self.run.uri} has no sound checkpoint {name!r}: it has {', '.join(usable) or 'none'}")
        return name

    def record(self, name: str) -> CheckpointRecord | None:
        """What a checkpoint consists of; None for one of older code.

        Raises:
            DamagedCheckpointError: it is half a checkpoint, or its record is damaged.
        """
        where = f"{self.run.uri}/{name}/{RECORD}"
        try:
            return read_record(self.run.read(f"{name}/{RECORD}", MAX_BYTES), where)
        except JsonError as error:
            raise DamagedCheckpointError(f"{error}: {_FIX}") from error
        except NotFoundError as error:
            if not has_record(name):
                return None
            if not any(True for _ in self.run.list(f"{name}/")):
                self.named(name)
            raise DamagedCheckpointError(f"{where} is missing: it is half a checkpoint; {_FIX}") from error

    def _fetch_file(self, name: str, file: str, expected: StoredFile | None, target: Path) -> None:
        where, problem = f"{self.run.uri}/{name}/{file}", ""
        for _ in range(2):  # bytes that were damaged on their way are right the second time
            try:
                size, digest = self._copy(f"{name}/{file}", target)
            except NotFoundError as error:
                raise DamagedCheckpointError(f"{where} is missing: {_FIX}") from error
            if expected is None or (size, digest) == (expected.size, expected.sha256):
                return
            problem = (
                f"{where} has {size} bytes and was written with {expected.size}"
                if size != expected.size
                else f"{where} has other bytes than were written (sha256 {digest[:12]}, not {expected.sha256[:12]})"
            )
        raise DamagedCheckpointError(f"{problem}: {_FIX}")

    def _copy(self, path: str, target: Path) -> tuple[int, str]:
        """Copy an object to a local file, piece by piece; its size and sha256."""
        digest, size, left = hashlib.sha256(), 0, self.run.size(path)
        with target.open("wb") as file:
            while left > 0:
                piece = self.run.read_range(path, size, min(left, _PIECE_BYTES))
                if not piece:
                    break
                digest.update(piece)
                file.write(piece)
                size, left = size + len(piece), left - len(piece)
        return size, digest.hexdigest()

    @contextlib.contextmanager
    def newest(self, check: Check) -> Iterator[tuple[str, Path] | None]:
        """The newest sound checkpoint: its name, and its files as ``fetch`` gives them; None where there is none.

        A damaged one is named in one warning and set aside, and the one before it is taken.

        Args:
            check: what stands in for the record of a checkpoint of older code.
        """
        with contextlib.ExitStack() as stack:
            yield self._newest(check, stack)

    def _newest(self, check: Check, stack: contextlib.ExitStack) -> tuple[str, Path] | None:
        found = self.entries()
        for entry in found:
            if entry.state is State.HALF:
                log.info("%s/%s is half a checkpoint, whose writer was killed: passed over", self.run.uri, entry.name)
            elif entry.state is State.DAMAGED:
                self.set_aside(entry.name, entry.problem)
            elif entry.usable:
                try:
                    folder = stack.enter_context(self.fetch(entry.name))
                    if entry.state is State.UNVERIFIED:
                        self._check(folder, check)
                        log.info("%s/%s is of older code, without checksums: unverified", self.run.uri, entry.name)
                    return entry.name, folder
                except DamagedCheckpointError as error:
                    self.set_aside(entry.name, str(error))
        if any(entry.state is not State.HALF for entry in found):
            log.warning("no sound checkpoint is left in %s: the run starts at its first step", self.run.uri)
        return None

    def _check(self, folder: Path, check: Check) -> None:
        try:
            check(folder)
        except UserError as error:
            raise DamagedCheckpointError(str(error)) from error

    def set_aside(self, name: str, problem: str) -> None:
        """Say what is wrong with a checkpoint, and mark it so that nobody takes it again. Nothing is deleted."""
        log.warning("%s; the checkpoint is set aside and the one before it taken", problem.partition(f": {_FIX}")[0])
        try:
            self.run.write(f"{name}/{SET_ASIDE}", json.dumps({"problem": problem}).encode())
        except StorageError as error:
            log.warning("%s/%s could not be marked: %s", self.run.uri, name, error)

    def prune(self) -> None:
        """Delete all but the last ``keep`` whole checkpoints and the best one, and half ones that are older than a
        whole one. What was set aside stays. A failure costs a warning.
        """
        try:
            found = self.entries()
            usable = [entry for entry in found if entry.usable]
            kept = {entry.name for entry in usable[: self.keep]}
            if self.keep_best and (best := best_of(found, self.keep_best)):
                kept.add(best[0].name)
            for entry in found:
                half = entry.state is State.HALF and bool(usable) and entry.order < usable[0].order
                if half or (entry.usable and entry.name not in kept):
                    self._delete(entry)
        except StorageError as error:
            log.warning("old checkpoints in %s could not be removed: %s", self.run.uri, error)

    def _delete(self, entry: Entry) -> None:
        # The record first: what is left by a process that is killed here is half a checkpoint, not a damaged one.
        for path in sorted(entry.files, key=lambda path: not path.endswith(f"/{RECORD}")):
            self.run.delete(path)


def no_room(what: str, error: OSError) -> UserError:
    """The folder for temporary files is full or cannot be written; ``what`` could not be done because of it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = (
        "free some space, or set TMPDIR to a folder with more" if full else "set TMPDIR to a folder that can be written"
    )
    return UserError(f"{what} to {tempfile.gettempdir()} ({error.strerror or error}): {fix}")
