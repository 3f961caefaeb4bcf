"""Counts of the results so far. A million samples pass through; only counts and the first examples are kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from pipeline.dataset.manifest import ShardEntry, entry_of
from pipeline.dataset.shards import Reject, ShardRecord
from preprocessing.shard.work import StageTimes

_EXAMPLES = 20  # per reason, for the summary; the records have all of them


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One stored shard: what the driver keeps of its record."""

    entry: ShardEntry
    rejects: tuple[Reject, ...]
    times: StageTimes
    num_maybe_cut: int = 0
    """Samples whose sources do not say their length."""

    @classmethod
    def of(cls, record: ShardRecord, times: StageTimes | None = None) -> Outcome:
        """The part of a record that a driver needs."""
        maybe_cut = sum(sample.length_announced is False for sample in record.samples)
        return cls(entry_of(record), record.rejects, times or StageTimes(), maybe_cut)


class Tally:
    """Entries of finished shards, rejects by reason and class, and the time the stages took."""

    def __init__(self) -> None:
        self.entries: dict[str, ShardEntry] = {}
        self.reasons: Counter[str] = Counter()
        self.by_class: Counter[tuple[int, str]] = Counter()  # (label, reason)
        self.examples: dict[str, list[Reject]] = {}
        self.times = StageTimes()
        self.num_maybe_cut = 0

    def add(self, outcome: Outcome) -> None:
        """Count one shard; each at most once."""
        if outcome.entry.path in self.entries:
            raise ValueError(f"{outcome.entry.path} was counted twice")
        self.entries[outcome.entry.path] = outcome.entry
        self.times += outcome.times
        self.num_maybe_cut += outcome.num_maybe_cut
        for reject in outcome.rejects:
            self.reasons[reject.reason] += 1
            self.by_class[reject.label, reject.reason] += 1
            kept = self.examples.setdefault(reject.reason, [])
            if len(kept) < _EXAMPLES:
                kept.append(reject)

    @property
    def num_missing(self) -> int:
        """Listed videos that do not exist."""
        return self.reasons["missing"]

    @property
    def num_rejected(self) -> int:
        """Videos that exist and cannot be used."""
        return self.reasons.total() - self.num_missing

    def classes_of(self, reason: str) -> list[tuple[int, int]]:
        """(label, number of rejects) for one reason, largest first."""
        found = [(label, count) for (label, why), count in self.by_class.items() if why == reason]
        return sorted(found, key=lambda item: (-item[1], item[0]))


def first_rejects(tally: Tally, classes: Sequence[str], count: int = 3, *, missing: bool = False) -> str:
    """How many videos were rejected for which reason, and the first few: on one line. The log names all of them.

    Args:
        missing: count those that do not exist, too.
    """
    reasons = {reason: number for reason, number in tally.reasons.most_common() if missing or reason != "missing"}
    examples = [reject for reason in reasons for reject in tally.examples[reason]][:count]
    numbers = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    named = ", ".join(f"{r.source} ({classes[r.label]}): {r.reason}: {r.detail}" for r in examples)
    return " ".join(f"{numbers}; the first: {named}".split())
