"""Which errors of a training may pass: the same steps may succeed on other nodes, or a little later."""

from __future__ import annotations

import enum
import errno

import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckTimeoutError,
)

from jobs.cluster.errors import causes, is_collective, is_full_disk
from pipeline.errors import NotFoundError, ReciprocalError, StepTimeoutError, StorageError, UserError


class Verdict(enum.Enum):
    """What the driver does about an attempt that failed; where ranks differ, the first of these that one has."""

    STAYS = "the same again would fail the same way"
    TAKEN = "a node was taken away with notice: another attempt, which does not count"
    NO_PLACE = "the ranks found no place in time: the nodes are counted again"
    PASSES = "another attempt may succeed; it counts"
    UNKNOWN = "so may this one, unless the same came at the same step before"


# Of a rank that was ended, or cannot be reached.
_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,  # perhaps another program's
    ray.exceptions.ObjectLostError,
    ray.exceptions.RaySystemError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckTimeoutError,
)
# Defects of the code, which come again.
_DEFECTS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    ImportError,
    ArithmeticError,
    NotImplementedError,
    SyntaxError,
    RecursionError,
    torch.OutOfMemoryError,  # of a GPU: the same batch again needs as much
)
# By the file system, about a path.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def judge(error: BaseException) -> Verdict:
    """The verdict on what an attempt ended with."""
    verdicts = {_judge_cause(cause) for cause in causes(error).values()}
    return next(verdict for verdict in Verdict if verdict in verdicts)


def _judge_cause(cause: BaseException) -> Verdict:
    if isinstance(cause, WorkerGroupStartupTimeoutError):
        return Verdict.NO_PLACE
    if isinstance(cause, ray.exceptions.RayActorError) and cause.preempted:
        return Verdict.TAKEN
    if is_full_disk(cause):
        return Verdict.STAYS
    if isinstance(cause, StepTimeoutError):
        return Verdict.PASSES
    # Ours are for good, except those of a storage that did not answer: its refusals and what it does not have stay.
    if isinstance(cause, ReciprocalError):
        answers = not isinstance(cause, StorageError) or isinstance(cause, UserError | NotFoundError)
        return Verdict.STAYS if answers else Verdict.PASSES
    if isinstance(cause, _LOST) or is_collective(cause):
        return Verdict.PASSES
    if isinstance(cause, _DEFECTS) or (isinstance(cause, OSError) and cause.errno in _REFUSED):
        return Verdict.STAYS
    return Verdict.UNKNOWN
