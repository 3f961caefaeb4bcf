"""Which errors may pass. The texts are those of real Ray 2.60, gloo and NCCL."""

from __future__ import annotations

import errno

import pytest
import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from jobs.cluster.errors import explain, what_happened
from jobs.train.failures import Verdict, judge
from pipeline.errors import (
    ConfigError,
    DamagedSampleError,
    ManifestError,
    NotFoundError,
    ReciprocalError,
    StepTimeoutError,
    StorageError,
    StorageSetupError,
)

GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")
DEAD = ray.exceptions.ActorDiedError()
TAKEN = ray.exceptions.RayActorError("ab", "its node was taken away", preempted=True)
MEMORY = """1 worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 10.0.0.7, ID: ebf51b9155ccddcb) was 7.27GB used / 23.54GB limit (0.308641)
OOM kill reason: Memory usage 7614382080B exceeded threshold of 7582954496B (30.0% of 25276514304B limit)
Object store memory usage: [- objects spillable: 0
]
Ray killed 1 worker(s) based on the killing policy
Selected to kill: (Actor(44a34188): job ID=01000000, task name=A.__init__, required resources={CPU: 1}, pid=13910, \
actual memory used=2.01GB, worker ID=80be0ed1)
]
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
13910\t2.01\tray::RayTrainWorker
1988\t1.31\tchrome
31045\t1.24\tpython -u -c import sys
26024\t0.54\tpython
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io
"""


def of_ranks(**failures: Exception) -> Exception:
    return WorkerGroupError("Traceback ...", {int(rank[1:]): error for rank, error in failures.items()})


def lost(cause: Exception) -> Exception:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=cause)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (of_ranks(r1=lost(DEAD)), Verdict.PASSES),
        (of_ranks(r1=lost(ray.exceptions.ActorUnavailableError("Socket closed", None))), Verdict.PASSES),
        (of_ranks(r1=lost(ray.exceptions.OutOfMemoryError(MEMORY))), Verdict.PASSES),
        (of_ranks(r0=GLOO), Verdict.PASSES),
        (of_ranks(r0=RuntimeError("NCCL communicator was aborted on rank 0.")), Verdict.PASSES),
        (of_ranks(r0=GLOO, r1=lost(TAKEN)), Verdict.TAKEN),
        (of_ranks(r2=StorageError("shard.tar: 503 for 120 s")), Verdict.PASSES),
        (of_ranks(r2=ConnectionResetError(errno.ECONNRESET, "reset")), Verdict.UNKNOWN),
        (of_ranks(r0=GLOO, r2=NotFoundError("s3://b/train/shard-000001.tar does not exist")), Verdict.STAYS),
        (of_ranks(r0=lost(DEAD), r2=StorageSetupError("the credentials have expired")), Verdict.STAYS),
        (of_ranks(r0=ConfigError("optim.lr", 0, "must be positive")), Verdict.STAYS),
        (of_ranks(r0=ManifestError("changed")), Verdict.STAYS),
        (of_ranks(r0=ReciprocalError("loss nan is not finite at step 7")), Verdict.STAYS),
        (of_ranks(r0=StepTimeoutError("rank 2 hangs")), Verdict.PASSES),
        (of_ranks(r0=DamagedSampleError("9 of 10")), Verdict.STAYS),
        (of_ranks(r0=UserExceptionWithTraceback(KeyError("x"), "Traceback ...")), Verdict.STAYS),
        (of_ranks(r0=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), Verdict.STAYS),
        (of_ranks(r0=OSError(errno.ENOSPC, "No space left on device", "/scratch/x")), Verdict.STAYS),
        (of_ranks(r0=RuntimeError("write failed: No space left on device (os error 28)")), Verdict.STAYS),
        (of_ranks(r0=PermissionError(errno.EACCES, "Permission denied", "/cache")), Verdict.STAYS),
        (of_ranks(r0=OSError(errno.EIO, "Input/output error", "/cache/x")), Verdict.UNKNOWN),
        (of_ranks(r0=RuntimeError("CUDA error: uncorrectable ECC error encountered")), Verdict.UNKNOWN),
        (ControllerError(WorkerGroupStartupTimeoutError(4)), Verdict.NO_PLACE),
        (ControllerError(WorkerGroupStartupFailedError("One of the worker actors failed")), Verdict.PASSES),
        (DEAD, Verdict.PASSES),  # Ray Train's controller
    ],
)
def test_verdicts(error: Exception, verdict: Verdict) -> None:
    assert judge(error) is verdict


def test_rays_memory_killer_is_told_with_node_process_and_memory() -> None:
    text = str(explain(of_ranks(r3=lost(ray.exceptions.OutOfMemoryError(MEMORY)))))
    assert text == (
        "rank 3: a worker was killed because its node ran out of memory (7.27GB of 23.54GB in use on 10.0.0.7 (node"
        " ebf51b91), 2.01GB of them in process 13910; largest: 13910 2.01 GB ray::RayTrainWorker, 1988 1.31 GB chrome,"
        " 31045 1.24 GB python -u -c import sys): let fewer or smaller tasks run at once, or use a larger node"
    )


def test_a_full_disk_names_the_file_and_the_fix() -> None:
    text = str(explain(of_ranks(r0=OSError(errno.ENOSPC, "No space left on device", "/scratch/run/x"))))
    assert "'/scratch/run/x'" in text
    assert "make room in that folder, or name a larger one (TMPDIR" in text


def test_of_a_lost_rank_that_said_nothing_the_others_tell_in_plain_words() -> None:
    assert what_happened(of_ranks(r0=GLOO, r1=GLOO)) == (
        "rank 0: it lost its connection to another rank, which has ended or cannot be reached"
    )
    assert str(GLOO) in str(explain(of_ranks(r0=GLOO)))


def test_an_event_tells_what_happened_without_advice() -> None:
    assert what_happened(of_ranks(r1=lost(DEAD), r0=GLOO)) == (
        "rank 1: a worker process died (it was killed, or crashed in native code)"
    )
