"""Who may write to a storage: leases kept as small objects beside the data, with a heartbeat.

    with hold(storage, plan="3f2a...", about={"crf": 20}, refuse=lambda holder: UserError(...)) as lease:
        ...                       # writes; lease.check() now and then
        lease.check(look=True)    # before what says "done"

Every writer keeps one object ``.lease-NAME.json``, which says who it is and what its plan is, and rewrites it every few
seconds. Writers of one plan may work at once, because they write the same bytes; writers of different plans exclude
each other. A lease whose heartbeat has stopped is taken over.

Why two plans cannot both get in: a writer first stores its own object, then looks at all others, and goes on only after
a look that shows no other plan. Of two writers, the one whose object came later finds the other's. This asks of a
storage only that a listing shows what was written before it (files and Amazon S3 do, and whatever copies it well); it
needs no conditional writes, which some S3 servers accept and ignore. Nor does it need clocks that agree: a heartbeat
has stopped when whoever looks has seen the same bytes for a minute of its own time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.errors import NotFoundError, ReciprocalError, StorageError
from pipeline.storage.base import Storage
from pipeline.storage.lease_holder import Holder

log = logging.getLogger(__name__)
PREFIX = ".lease-"
_ENDING = ".json"
_REQUEST_S = 20.0  # for one request: a heartbeat must not hang for as long as others wait for one
_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds between two heartbeats, two looks of whoever waits, and without a heartbeat until a lease is abandoned:
    ``gone_s`` where its process is known to have ended (its last requests may still be on their way), else ``dead_s``.
    """

    beat_s: float = 5.0
    look_s: float = 1.0
    gone_s: float = 10.0
    dead_s: float = 60.0


TIMING = Timing()


class LeaseLostError(ReciprocalError):
    """Another writer has taken the storage over."""


class Lease:
    """The lease of one writer; ``hold`` makes one."""

    def __init__(self, storage: Storage, plan: str, about: dict[str, Any], timing: Timing) -> None:
        self._storage, self._hasty, self._timing = storage, storage.within(_REQUEST_S), timing
        self._me = Holder.new(plan, about)
        self._seen: dict[str, tuple[bytes, float, bool]] = {}  # bytes, since when, and whether it changed before that
        self._looked_s = self._wrote_s = time.monotonic()
        self._stop, self._lock, self._lost = threading.Event(), threading.Lock(), ""

    def check(self, *, look: bool = False) -> None:
        """Make sure that this writer may still write.

        Args:
            look: ask the storage, instead of relying on the last heartbeat.

        Raises:
            LeaseLostError: another one has taken over.
            StorageError: the storage does not answer.
        """
        if look:
            with self._lock:
                self._watch(self._storage)
        if self._lost:
            raise LeaseLostError(f"{self._storage.uri}: {self._lost}")

    def _path(self, name: str) -> str:
        return f"{PREFIX}{name}{_ENDING}"

    def _write(self, storage: Storage, **changes: Any) -> None:
        self._me = dataclasses.replace(self._me, beat=self._me.beat + 1, **changes)
        storage.write(self._path(self._me.name), self._me.to_json())
        self._wrote_s = time.monotonic()

    def _others(self, storage: Storage) -> list[Holder]:
        """All other holders, as they are now."""
        now_s = time.monotonic()
        if now_s - self._looked_s > self._timing.dead_s / 2:
            self._seen.clear()  # this process was stopped, or the storage: then nobody could give a sign of life
        self._looked_s = now_s
        before, self._seen, found = self._seen, {}, list[Holder]()
        for path in list(storage.list(PREFIX)):
            name = _name_of(path)
            with contextlib.suppress(NotFoundError):  # it has just ended
                data = storage.read_range(path, 0, _MOST_BYTES)
                known, since_s, changed = before.get(name, (data, now_s, False))
                self._seen[name] = (data, since_s, changed) if known == data else (data, now_s, True)
                found.append(Holder.from_json(name, data))
        return [holder for holder in found if holder.name != self._me.name]

    def _is_abandoned(self, holder: Holder) -> bool:
        same_s = time.monotonic() - self._seen[holder.name][1]
        return same_s >= (self._timing.gone_s if holder.is_gone else self._timing.dead_s)

    def acquire(self, refuse: Callable[[Holder], Exception]) -> None:
        """Wait until no other plan is written, or raise what ``refuse`` makes of its live writer."""
        self._write(self._storage)
        waited = False
        while others := [h for h in self._others(self._storage) if h.plan != self._me.plan]:
            for holder in [h for h in others if self._is_abandoned(h)]:
                log.warning("%s: taking over from %s, which has stopped", self._storage.uri, holder)
                self._write(
                    self._storage, took_over=[*self._me.took_over, holder.name]
                )  # first: it may only have been paused
                self._storage.delete(self._path(holder.name))
            # Of two that still look, the one with the smaller name stays. The other leaves, which ends this loop.
            for holder in others:
                if self._seen[holder.name][2] and (holder.held or holder.name < self._me.name):
                    raise refuse(holder)
            if not waited and any(h.held for h in others):
                waited = True
                log.info(
                    "%s is leased by %s; waiting up to %.0f s for its sign of life",
                    self._storage.uri,
                    next(h for h in others if h.held),
                    self._timing.dead_s,
                )
            time.sleep(self._timing.look_s)
            if time.monotonic() - self._wrote_s >= self._timing.beat_s:
                self._write(self._storage)
        self._write(self._storage, held=True)

    def beat(self) -> None:
        """Until ``release``: a sign of life every few seconds, as long as the lease is this writer's."""
        while not self._stop.wait(self._timing.beat_s):
            try:
                with self._lock:
                    self._watch(self._hasty)
                    if self._lost or self._stop.is_set():
                        return
                    self._write(self._hasty)
            except (StorageError, OSError) as error:  # the work finds out by itself whether the storage comes back
                log.debug("%s: no heartbeat: %s", self._storage.uri, error)

    def _watch(self, storage: Storage) -> None:
        """Find out whether the lease is still this writer's."""
        for holder in self._others(storage):
            if holder.name in self._me.took_over:  # a heartbeat that was on its way; its writer will find out
                storage.delete(self._path(holder.name))
            elif (
                holder.plan != self._me.plan
                and holder.held
                # Where neither took the other over, listings come late: the smaller name stays.
                and (self._me.name in holder.took_over or holder.name < self._me.name)
            ):
                self._lost = f"{holder} has taken over, because this command gave no sign of life"
        if self._me.name not in self._seen and not self._lost:
            self._lost = (
                "another command has removed this one's lease, because it gave no sign of life: run it again to"
                " continue"
            )

    def release(self) -> None:
        """End the heartbeat, and remove the lease and those that abandoned leases of the same plan left."""
        self._stop.set()
        with self._lock:
            try:
                for holder in self._others(self._hasty) if self._me.held and not self._lost else ():
                    if holder.plan == self._me.plan and (holder.is_gone or self._is_abandoned(holder)):
                        self._hasty.delete(self._path(holder.name))
                self._hasty.delete(self._path(self._me.name))
            except (StorageError, OSError) as error:
                log.warning("%s: the lease stays until others see that it has stopped: %s", self._storage.uri, error)


def remove_gone(storage: Storage) -> None:
    """Remove the leases of processes that have ended on this machine and could not remove their own. A storage that
    fails costs a warning.
    """
    try:
        for path in list(storage.list(PREFIX)):
            with contextlib.suppress(NotFoundError):
                if Holder.from_json(_name_of(path), storage.read_range(path, 0, _MOST_BYTES)).is_gone:
                    storage.delete(path)
    except (StorageError, OSError) as error:
        log.warning("%s: leases that nobody holds could not be removed: %s", storage.uri, error)


def _name_of(path: str) -> str:
    return path[len(PREFIX) : -len(_ENDING)]


@contextlib.contextmanager
def hold(
    storage: Storage,
    *,
    plan: str,
    about: dict[str, Any],
    refuse: Callable[[Holder], Exception],
    timing: Timing | None = None,
) -> Iterator[Lease]:
    """Be the storage's writer, or one of several with the same plan, while the block runs.

    A live writer of another plan is found out within seconds. One that does not answer is waited for, up to a minute,
    and then taken over.

    Args:
        plan: names what will be written; equal plans write equal bytes.
        about: JSON-ready, what the plan is made of; ``refuse`` of another writer reads it.
        refuse: makes the error for a storage that a live writer with another plan holds.

    Raises:
        Exception: from ``refuse``.
        StorageError: the storage does not answer.
    """
    lease = Lease(storage, plan, about, timing or TIMING)
    try:
        lease.acquire(refuse)
        threading.Thread(target=lease.beat, name="lease", daemon=True).start()
        yield lease
    finally:
        lease.release()
