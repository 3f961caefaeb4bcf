"""Run an iterator in a thread of its own, a bounded number of items ahead, and stop it reliably."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_JOIN_S = 30.0


class ReadAhead(Generic[T]):
    """Takes items from ``source`` in a thread of its own; ``source.close()`` runs in that thread too.

    Args:
        source: a generator; it is closed when it ends, fails or is abandoned.
        ahead: items ready or being made that the consumer has not taken.
        name: of the thread.
        wake: called by ``close``: makes a ``source`` that waits for something raise, so that the thread ends.
        join_s: how long ``close`` waits for the thread; None: until it ends.
    """

    def __init__(
        self,
        source: Iterator[T],
        ahead: int,
        name: str,
        *,
        wake: Callable[[], None] | None = None,
        join_s: float | None = _JOIN_S,
    ) -> None:
        self._source, self._wake, self._join_s = source, wake, join_s
        self._slots = threading.Semaphore(ahead)
        self._items: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            while True:
                self._slots.acquire()
                if self._stopped.is_set():
                    break
                try:
                    item = next(self._source)
                except StopIteration:
                    break
                self._items.put((item, None))
                del item  # a thread that waits for a slot must not keep an item's memory
        except BaseException as error:  # raised again in ``get``
            end = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            self._items.put((None, end))

    def get(self) -> T | None:
        """The next item, or None at the end. Raises what the source raised, and RuntimeError after ``close``."""
        if self._ended:
            return None
        if self._stopped.is_set():
            raise RuntimeError(
                f"{self._thread.name} was closed before its end (by another iterator of the same loader)"
            )
        item, error = self._items.get()
        if item is None:
            self._ended = True
            if error is not None:
                raise error
            return None
        self._slots.release()
        return item

    def close(self) -> None:
        """Stop after the item that is being made, and wait for the thread."""
        self._stopped.set()
        self._slots.release()
        if self._wake:
            self._wake()
        self._thread.join(self._join_s)
        if self._thread.is_alive():
            log.warning("%s is still busy %g s after it was told to stop", self._thread.name, self._join_s)


def read_ahead(items: Iterator[T], ahead: int, name: str) -> Generator[T]:
    """Yield ``items``, made in a thread of their own, at most ``ahead`` of them waiting; raises what they raise.

    Closing the generator (or leaving it to an error) closes ``items`` in their thread, and waits for that.
    """
    reader = ReadAhead(items, ahead, name, join_s=None)
    try:
        while (item := reader.get()) is not None:
            yield item
    finally:
        reader.close()
