"""An error inside a worker is one line of the command, with the exit code of its kind; the traceback is in a file.

One private Ray for the file. Commands run in this process, through the entry that all of them share.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import ray.exceptions
import ray.train

from jobs.cluster.errors import WorkerError, explain
from pipeline.common import cli
from pipeline.errors import ConfigError, StorageError, UserError
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts Ray


@pytest.fixture(scope="module", autouse=True)
def private_ray() -> Iterator[None]:
    """Commands join the Ray that their process is connected to."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}},
    )
    yield
    ray.shutdown()


@ray.remote(max_retries=0)
def fail(error: Exception | None) -> None:
    if error is None:
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        raise error


@ray.remote(max_retries=0)
def fail_in_a_task_of_a_task(error: Exception) -> None:
    ray.get(fail.remote(error))


def end_of(action: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command that does that."""

    def main() -> int:
        action()
        return 0

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.run_main(main, explain=explain)
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err


def check_one_line(err: str, *, traceback_has: str = "Traceback") -> str:
    """Standard error without the name of the traceback's file, which is checked."""
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert "\x1b" not in err
    found = re.fullmatch(r"(.*); whole traceback: (/.*\.log)", err.strip())
    assert found, err
    file = Path(found[2])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert traceback_has in file.read_text()
    assert "\x1b" not in file.read_text()
    return found[1]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("clip.crop", 7, "use an even number"), 2, "error: clip.crop = 7: use an even number"),
        (UserError("no such set"), 2, "error: no such set"),
        (StorageError("bucket is gone"), 1, "failed: bucket is gone"),
        (ValueError("bad\nand more"), 1, "failed: ValueError: bad"),
        (KeyError("x"), 1, "failed: KeyError: 'x'"),
        (None, 1, "failed: a worker process died (it was killed, or crashed in native code): Ray's logs say more"),
    ],
)
def test_an_error_in_a_task_is_one_line_and_has_its_own_exit_code(
    error: Exception | None, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, err = end_of(lambda: ray.get(fail.remote(error)), capsys)
    assert ended == code
    assert check_one_line(err).startswith(line)


def test_the_root_cause_is_found_through_tasks_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = end_of(lambda: ray.get(fail_in_a_task_of_a_task.remote(UserError("deep down"))), capsys)
    assert (code, check_one_line(err, traceback_has="in fail_in_a_task_of_a_task")) == (2, "error: deep down")


def training_error(failures: dict[int, Exception]) -> Exception:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    wrapped = {rank: UserExceptionWithTraceback(error, "Traceback ...") for rank, error in failures.items()}
    return WorkerGroupError("Traceback of rank ...", wrapped)


def test_of_several_ranks_the_one_that_caused_it_is_named() -> None:
    class ProcessGroupError(RuntimeError):
        __module__ = "torch.distributed.distributed_c10d"

    found = explain(training_error({0: ProcessGroupError("peer closed"), 1: ValueError("nan"), 2: UserError("no set")}))
    assert type(found) is UserError
    assert str(found) == "rank 2: no set"
    found = explain(training_error({0: ProcessGroupError("peer closed"), 1: ValueError("nan")}))
    assert type(found) is WorkerError
    assert str(found) == "rank 1: ValueError: nan"
    assert str(explain(training_error({1: ray.exceptions.NodeDiedError("n")}))).startswith("rank 1: a node was lost")


def test_errors_that_are_not_rays_are_left_alone() -> None:
    assert explain(ValueError("x")) is None
    assert explain(UserError("x")) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ray.exceptions.OutOfMemoryError("..."), "its node ran out of memory"),
        (ray.exceptions.NodeDiedError("..."), "a node was lost"),
        (ray.exceptions.WorkerCrashedError(), "a worker process died"),
        (ray.exceptions.ActorDiedError(), "a worker process died"),
        (ray.exceptions.ObjectLostError("ab", b"", ""), "a result was lost"),
        (ray.exceptions.OwnerDiedError("ab", b"", ""), "held a result died"),
    ],
)
def test_what_has_no_exception_gets_a_plain_sentence(kind: Exception, text: str) -> None:
    found = explain(kind)
    assert isinstance(found, WorkerError)
    assert text in str(found)
    assert "\n" not in str(found)
