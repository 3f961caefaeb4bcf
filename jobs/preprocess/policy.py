"""What to do after a shard's task has ended: decided here, done in ``jobs.preprocess.tasks``."""

from __future__ import annotations

import dataclasses
import enum

MAX_FAILED_SHARDS = 3  # then the cause is shared, not one shard


class Ending(enum.Enum):
    """How an attempt to build a shard ended."""

    STORED = "stored"
    WORKER_DIED = "its process died, in all of Ray's own retries"
    FAILED = "it raised an error"


class Decision(enum.Enum):
    """What follows."""

    ACCEPT = "the shard is done"
    SEARCH_AND_RETRY = "try its videos one by one, then build it again without those that kill their worker"
    FAIL_SHARD = "give this shard up and build the others"
    STOP_RUN = "start nothing more and cancel what is running"


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """What happened before, and what this attempt brought the run to."""

    searched: bool
    """The videos of this shard were tried one by one already."""
    num_failed: int
    """Shards given up before this attempt."""
    too_many_rejects: bool
    """More videos were rejected than the run allows, those of this attempt included."""


def decide(ending: Ending, history: History) -> Decision:
    """The decision about one attempt.

    A worker that dies once may have been killed for lack of memory, or with its node, and a search that finds no video
    says so: the shard gets one more attempt either way. One that dies again, and any error that Ray's retries did not
    cure, fails the shard. What was stored stays stored, whatever ends the run.
    """
    if ending is Ending.STORED:
        return Decision.STOP_RUN if history.too_many_rejects else Decision.ACCEPT
    if ending is Ending.WORKER_DIED and not history.searched:
        return Decision.SEARCH_AND_RETRY
    return Decision.STOP_RUN if history.num_failed + 1 >= MAX_FAILED_SHARDS else Decision.FAIL_SHARD
