"""What went wrong in a worker, as one of our own errors with a one-line text.

Ray wraps an exception of a task in its own, whose text is a coloured traceback of many lines; what kills a worker
(memory, a lost node) has no exception at all. ``explain`` finds the root cause and keeps its kind, so that a
``UserError`` raised in a worker ends the command with exit code 2 as it would have here. Commands hand it to
``pipeline.common.cli.run_main``, which writes the whole traceback to a file.
"""

from __future__ import annotations

import errno
import re

import ray.exceptions
import ray.train

from pipeline.common.cli import one_line
from pipeline.errors import ReciprocalError, UserError

_MORE_ROOM = (
    "make room in that folder, or name a larger one (TMPDIR for checkpoints on their way, data.cache_dir for the cache)"
)
_LESS_MEMORY = "let fewer or smaller tasks run at once, or use a larger node"
_LOST_TOUCH = "it lost its connection to another rank, which has ended or cannot be reached"
_KILLED = r"Selected to kill: .*?pid=(\d+), actual memory used=([\d.]+GB)"
_USER = r"^(\d+)\t([\d.]+)\t(.+)$"

# What happened, and what to do; the first that fits, subclasses before their bases.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str], ...] = (
    (ray.exceptions.OutOfMemoryError, "a worker was killed because its node ran out of memory", _LESS_MEMORY),
    (
        (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError),
        "a node was lost",
        "see `ray status`, and run the same command again",
    ),
    (
        (ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError),
        "a worker process died (it was killed, or crashed in native code)",
        "Ray's logs say more, and running the same command again is safe",
    ),
    (ray.exceptions.ActorUnavailableError, "a worker does not answer", "its node may be lost or overloaded"),
    (ray.exceptions.OutOfDiskError, "a node's disk is full", "make room in Ray's folder (--temp-dir)"),
    (ray.exceptions.ObjectStoreFullError, "Ray's object store is full", "use fewer tasks, or a larger one"),
    (ray.exceptions.OwnerDiedError, "the process that held a result died", "run the same command again"),
    (ray.exceptions.ObjectLostError, "a result was lost with its node", "run the same command again"),
    (ray.exceptions.TaskCancelledError, "a task was cancelled", ""),
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
    cause = root_cause(error)
    if isinstance(cause, ReciprocalError):
        return cause
    return WorkerError(_sentence(cause))


def causes(error: BaseException) -> dict[int, BaseException]:
    """What each rank that failed failed with, by rank; where no rank did, what Ray Train itself failed with, as -1."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {-1: error}
    return {rank: root_cause(failure) for rank, failure in failures.items()}


def what_happened(error: BaseException) -> str:
    """One line about what an error of Ray's comes from, without what to do about it."""
    rank, cause = _first_cause(error)
    text = str(cause) if isinstance(cause, ReciprocalError) else _describe(cause)[0]
    return text if rank < 0 else f"rank {rank}: {text}"


def _first_cause(error: BaseException) -> tuple[int, BaseException]:
    """Of several ranks that failed, one whose error is ours, else one that raised an error, else any."""
    return min(causes(error).items(), key=lambda pair: (_rank_of_cause(pair[1]), pair[0]))


def _explain_training(error: ray.train.TrainingFailedError) -> ReciprocalError:
    rank, cause = _first_cause(error)
    if rank < 0:
        return cause if isinstance(cause, ReciprocalError) else WorkerError(_sentence(cause))
    kind = UserError if isinstance(cause, UserError) else WorkerError
    return kind(f"rank {rank}: {cause if isinstance(cause, ReciprocalError) else _sentence(cause)}")


def _rank_of_cause(cause: BaseException) -> int:
    # When one rank fails, the others fail in the collective that it left; theirs is the consequence.
    if isinstance(cause, ReciprocalError):
        return 0
    return 2 if is_collective(cause) else 1


def is_collective(cause: BaseException) -> bool:
    """Whether a rank failed because another one, or the way to it, was gone."""
    text = str(cause)
    return (
        "torch.distributed" in type(cause).__module__
        or "torch._C._distributed" in type(cause).__module__
        or "gloo" in text.lower()
        or any(word in text for word in ("NCCL", "Connection closed by peer", "Connection reset by peer"))
    )


def root_cause(error: BaseException) -> BaseException:
    """What Ray's wrappers hold; an error with more than one class (Ray makes such) is taken apart as well."""
    while True:
        inner = getattr(error, "_base_exc", None)  # ray.train's wrapper of an exception of a rank
        for name in ("controller_failure", "health_check_failure"):  # ray.train's own
            inner = inner or getattr(error, name, None)
        if inner is None and isinstance(error, ray.exceptions.RayTaskError):
            inner = error.cause
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def is_full_disk(cause: BaseException) -> bool:
    """Whether an error says that there is no room left; libraries in other languages say it in words only."""
    return (
        isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    ) or "No space left on device" in str(cause)


def _sentence(cause: BaseException) -> str:
    """One line about an exception that is not ours."""
    return ": ".join(filter(None, _describe(cause)))


def _describe(cause: BaseException) -> tuple[str, str]:
    """What happened, and what to do, of an exception that is not ours."""
    if is_full_disk(cause):
        return f"no space left on its node ({one_line(cause)})", _MORE_ROOM
    if type(cause).__name__ == "OutOfMemoryError" and type(cause).__module__.startswith("torch"):
        return one_line(cause), "a smaller data.micro_batch or clip.crop, more ranks, or model.recompute need less"
    found = _memory(str(cause)) if isinstance(cause, ray.exceptions.OutOfMemoryError) else ""
    for kinds, what, advice in _KINDS:
        if isinstance(cause, kinds):
            return f"{what} ({found})" if found else what, advice
    if is_collective(cause):  # what lost ranks leave behind; the libraries' own texts name addresses and source files
        return _LOST_TOUCH, f"run the same command again; it was: {one_line(cause)}"
    return one_line(cause), ""


def _memory(text: str) -> str:
    """Node, memory, the process that was killed and the largest ones, from the many lines of Ray's memory monitor."""
    node = re.search(r"Memory on the node \(IP: ([^,]+), ID: (\w+)\) was (\S+) used / (\S+) limit", text)
    if not node:
        return ""
    killed = "".join(f", {size} of them in process {pid}" for pid, size in re.findall(_KILLED, text)[:1])
    users = [f"{pid} {gb} GB {' '.join(name.split())[:40]}" for pid, gb, name in re.findall(_USER, text, re.MULTILINE)]
    largest = f"; largest: {', '.join(users[:3])}" if users else ""
    return f"{node[3]} of {node[4]} in use on {node[1]} (node {node[2][:8]}){killed}{largest}"
