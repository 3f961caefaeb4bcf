"""What a part of the bench is told, and how its measurements end in rows."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""One measurement: "what" names it, "error" says why it failed; figures carry their units in their names."""


class DeviceLostError(Exception):
    """An assertion failed on the device: it answers no further call of this process. Another process can go on."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where and how long a part measures."""

    device: torch.device
    until_s: float
    """Of ``time.monotonic()``: no measurement is begun after it."""
    tiny: bool = False
    """Small networks and pictures: the same code in seconds on a CPU."""
    flows: Path | None = None
    """Stored pairs and flows (``jobs.bench.gpu.store_flows``)."""
    logs: Path = Path(".")
    """Folder for logs."""
    skip: int = 0
    """Measurements that an earlier process of the part has taken: they are not repeated."""
    begun: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    """Numbers the measurements."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left_s(self) -> float:
        """Seconds until no further measurement is begun."""
        return self.until_s - time.monotonic()

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def guarded(settings: Settings, what: str, measure: Callable[[], Row], needs_s: float = 3.0) -> Iterator[Row]:
    """The row of one measurement, or of its error: the others are still taken. Skipped, and said so, where fewer than
    ``needs_s`` seconds are left.

    Raises:
        DeviceLostError: after the row of an error that leaves the device unusable to this process.
    """
    if next(settings.begun) < settings.skip:
        return
    if settings.left_s() < (0 if settings.tiny else needs_s):
        yield {"what": what, "skipped": f"{max(0.0, settings.left_s()):.0f} s left"}
        return
    began_s = time.monotonic()
    if settings.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(settings.device)
    try:
        row: Row = {"what": what, **measure()}
        if settings.cuda:
            row["peak_gb"] = torch.cuda.max_memory_allocated(settings.device) / 1e9
    except Exception as error:  # libraries fail in many ways; the other rows are still measured
        lines = str(error).strip().splitlines() or [""]
        row = {"what": what, "error": f"{type(error).__name__}: {lines[0][:300]}"}
    row["took_s"] = time.monotonic() - began_s
    yield row
    if "error" in row:
        try:
            settings.synchronise()
        except RuntimeError as error:
            raise DeviceLostError(row["what"]) from error
