"""Samples that differ from their records, counted against a budget."""

from __future__ import annotations

import dataclasses
import logging
import threading

from pipeline.errors import DamagedSampleError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Damaged:
    """What stands in for a sample that differs from its record after a second GET."""

    key: str
    tar: str
    detail: str


class DamageLedger:
    """Distinct damaged samples seen by one rank, against the budget.

    A sample counts once, however many epochs meet it. Thread-safe.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._seen: dict[str, Damaged] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, damaged: Damaged) -> None:
        """Count and log a damaged sample.

        Raises:
            DamagedSampleError: this one is more than the budget allows; the message lists all.
        """
        with self._lock:
            if damaged.key in self._seen:
                return
            self._seen[damaged.key] = damaged
            count = f"{len(self)} of {self.budget} allowed"
            log.warning("damaged sample %s in %s (%s): weight 0; %s", damaged.key, damaged.tar, damaged.detail, count)
            if len(self) > self.budget:
                listed = "; ".join(f"{d.key} in {d.tar} ({d.detail})" for d in self._seen.values())
                raise DamagedSampleError(
                    f"{len(self)} damaged samples, data.damaged_budget allows {self.budget}: {listed}. "
                    "Restore these shards or preprocess them again"
                )
