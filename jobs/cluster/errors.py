"""What went wrong in a worker, as one of our own errors with a one-line text.

Ray wraps an exception of a task in its own, whose text is a coloured traceback of many lines; what kills a worker
(memory, a lost node) has no exception at all. ``explain`` finds the root cause and keeps its kind, so that a
``UserError`` raised in a worker ends the command with exit code 2 as it would have here. Commands hand it to
``pipeline.common.cli.run_main``, which writes the whole traceback to a file.
"""

from __future__ import annotations

import ray.exceptions
import ray.train

from pipeline.common.cli import one_line
from pipeline.errors import ReciprocalError, UserError

# The first that fits; subclasses before their bases.
_SENTENCES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (
        ray.exceptions.OutOfMemoryError,
        "a worker was killed because its node ran out of memory: let fewer or smaller tasks run at once, or use"
        " a larger node",
    ),
    (
        (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError),
        "a node was lost: see `ray status`, and run the same command again",
    ),
    (
        (ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError),
        "a worker process died (it was killed, or crashed in native code): Ray's logs say more, and running the same"
        " command again is safe",
    ),
    (ray.exceptions.ActorUnavailableError, "a worker does not answer: its node may be lost or overloaded"),
    (ray.exceptions.OutOfDiskError, "a node's disk is full: make room in Ray's folder (--temp-dir)"),
    (ray.exceptions.ObjectStoreFullError, "Ray's object store is full: use fewer tasks, or a larger one"),
    (ray.exceptions.OwnerDiedError, "the process that held a result died: run the same command again"),
    (ray.exceptions.ObjectLostError, "a result was lost with its node: run the same command again"),
    (ray.exceptions.TaskCancelledError, "a task was cancelled"),
)


class WorkerError(ReciprocalError):
    """A worker failed, with an exception that is not ours or with none."""


def explain(error: BaseException) -> ReciprocalError | None:
    """The root cause of an error that Ray raised, as one of ours; None for an error that is not Ray's.

    The text has one line for what is not ours, and is our exception's own text otherwise.
    """
    if isinstance(error, ray.train.TrainingFailedError):
        return _explain_training(error)
    if not isinstance(error, ray.exceptions.RayError):
        return None
    cause = _root(error)
    if isinstance(cause, ReciprocalError):
        return cause
    return WorkerError(_sentence(cause))


def _explain_training(error: ray.train.TrainingFailedError) -> ReciprocalError:
    """Of several ranks that failed, one whose error is ours, else one that raised an error, else any."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        cause = _root(getattr(error, "controller_failure", error))
        return cause if isinstance(cause, ReciprocalError) else WorkerError(_sentence(cause))
    causes = {rank: _root(failure) for rank, failure in failures.items()}
    rank, cause = min(causes.items(), key=lambda pair: (_rank_of_cause(pair[1]), pair[0]))
    kind = UserError if isinstance(cause, UserError) else WorkerError
    return kind(f"rank {rank}: {cause if isinstance(cause, ReciprocalError) else _sentence(cause)}")


def _rank_of_cause(cause: BaseException) -> int:
    # When one rank fails, the others fail in the collective that it left; theirs is the consequence.
    if isinstance(cause, ReciprocalError):
        return 0
    distributed = "torch.distributed" in type(cause).__module__ or "gloo" in str(cause).lower() or "NCCL" in str(cause)
    return 2 if distributed else 1


def _root(error: BaseException) -> BaseException:
    """What Ray's wrappers hold; an error with more than one class (Ray makes such) is taken apart as well."""
    while True:
        inner = getattr(error, "_base_exc", None)  # ray.train's wrapper of an exception of a rank
        if inner is None and isinstance(error, ray.exceptions.RayTaskError):
            inner = error.cause
        if inner is None and isinstance(error, ray.train.TrainingFailedError):
            inner = getattr(error, "controller_failure", None)
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def _sentence(cause: BaseException) -> str:
    """One line about an exception that is not ours."""
    for kinds, sentence in _SENTENCES:
        if isinstance(cause, kinds):
            return sentence
    return one_line(cause)
