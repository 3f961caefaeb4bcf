"""Ctrl-C and SIGTERM of a training's driver: the first asks the ranks to leave in order, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pipeline.common.cli import terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Leaving:
    """Which signal has come. Until ``patient`` is set, and with the second one, the signal raises where the driver is;
    the third ends the process as it stands.
    """

    def __init__(self) -> None:
        self.patient = False
        self.signal: int | None = None
        self._count = 0
        self._before: dict[int, Any] = {}

    def handle(self) -> None:
        """Handle both signals from now on. Only the main thread can; elsewhere the signals stay as they are."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before.setdefault(number, signal.signal(number, self.receive))

    def restore(self) -> None:
        """Handle them as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def error(self) -> KeyboardInterrupt:
        """What the command ends with: exit code 130, or 143 after SIGTERM."""
        return terminated() if self.signal == signal.SIGTERM else KeyboardInterrupt()

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The signals' handler."""
        self._count += 1
        self.signal = number
        if self._count > 2:
            os._exit(128 + number)
        if self._count > 1 or not self.patient:
            raise self.error()


@contextlib.contextmanager
def leaving() -> Iterator[Leaving]:
    """Handles both signals while the block runs."""
    found = Leaving()
    found.handle()
    try:
        yield found
    finally:
        found.restore()
