"""Each command that uses Ray, with a fault inside its workers: one line, no traceback, the fault's own exit code.

One private Ray for the file. What a command runs in its workers is replaced by a function of this file, which Ray sends
to them by value. Commands start through their ``__main__``.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from jobs.ablations.questions import QUESTIONS
from jobs.bench import preprocess as bench_preprocess
from jobs.preprocess import tasks as preprocess_tasks
from jobs.verify import tasks as verify_tasks
from pipeline.errors import StorageError, UserError
from pipeline.storage import open_storage
from tests.support.run_folder import write_run

FAULTS = {
    "a defect": (ZeroDivisionError("one\ntwo"), 1, "ZeroDivisionError: one"),
    "a refusal": (UserError("no such thing"), 2, "no such thing"),
}


pytestmark = pytest.mark.slow  # starts Ray


@pytest.fixture(scope="module", autouse=True)
def private_ray() -> Iterator[None]:
    """Commands join the Ray that their process is connected to; it is set up as ``connect`` would."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> tuple[Exception, int, str]:
    return FAULTS[request.param]


@pytest.fixture(scope="module")
def raw(tiny_set: str) -> Path:
    """The raw videos behind ``tiny_set``."""
    return Path(tiny_set.removeprefix("file://")).parent / "raw"


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


def remote_raiser(error: Exception) -> object:
    return ray.remote(max_retries=0)(raiser(error))


def end_of(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code, and the one line of ``python -m COMMAND ARGUMENTS`` that says what went wrong."""
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(command, run_name="__main__")
    printed = capsys.readouterr()
    # Ray Train's cleaner does not know which Ray it belongs to where several run on one host, as other tests' do.
    err = "\n".join(line for line in printed.err.splitlines() if "(PlacementGroupCleaner " not in line)
    assert "Traceback" not in err + printed.out
    lines = re.findall(r"^(?:error|failed): .*$", err, re.MULTILINE)
    assert len(lines) == 1, err
    assert isinstance(stop.value.code, int)
    return stop.value.code, lines[0]


def check(end: tuple[int, str], code: int, pattern: str) -> None:
    assert end[0] == code
    found = re.fullmatch(rf"{'error' if code == 2 else 'failed'}: {pattern}; whole traceback: (/.*\.log)", end[1])
    assert found, end[1]
    assert "Traceback" in Path(found[1]).read_text()


@pytest.fixture
def run_uri(tiny_set: str, tmp_path: Path) -> str:
    """A finished run, as far as the driver of an evaluation looks."""
    return write_run(open_storage(f"file://{tmp_path}/run"), "rgb_demo", data_uri=tiny_set).uri


def test_evaluate_shows_a_workers_error_in_one_line(run_uri, fault, monkeypatch, capsys) -> None:
    error, code, text = fault
    monkeypatch.setattr("jobs.evaluate.command.evaluate_rank", raiser(error))
    check(end_of("jobs.evaluate", [run_uri, "--num-workers", "2"], monkeypatch, capsys), code, text)


def test_train_shows_a_workers_error_in_one_line(tiny_set, tmp_path, fault, monkeypatch, capsys) -> None:
    error, code, text = fault
    monkeypatch.setattr("jobs.train.group.train_worker", raiser(error))
    arguments = ["rgb_demo", "--data.uri", tiny_set, "--run.output", f"file://{tmp_path}/runs", "--run.num-workers"]
    end = end_of("jobs.train", [*arguments, "1", "--run.max-failures", "0"], monkeypatch, capsys)
    check(end, code, rf"training failed: rank 0: {text}; fix it and run the same command again to resume")


def test_ablations_show_a_workers_error_in_one_line(tiny_set, tmp_path, fault, monkeypatch, capsys) -> None:
    error, code, text = fault
    asked = QUESTIONS["mrst"]
    small = dataclasses.replace(asked, budget=dataclasses.replace(asked.budget, crop=48))
    monkeypatch.setitem(QUESTIONS, "mrst", small)
    monkeypatch.setattr("jobs.ablations.command.train_and_test", raiser(error))
    arguments = ["mrst", "--data-uri", tiny_set, "--out", f"file://{tmp_path}/out", "--seeds", "1"]
    end = end_of("jobs.ablations", arguments, monkeypatch, capsys)
    check(end, code, rf"[^:]*, seed 0: {text}; fix it and run the same command again to continue")


def test_preprocess_names_the_shard_and_the_workers_error_in_one_line(
    raw, tmp_path, fault, monkeypatch, capsys
) -> None:
    """A shard that fails is a failure while running, whatever the cause: other shards may be finished."""
    error, _, text = fault
    monkeypatch.setattr(preprocess_tasks, "_build", remote_raiser(error))
    arguments = ["--format", "ucf101", "--source", f"{raw}/videos", "--annotations", str(raw)]
    end = end_of("jobs.preprocess", [*arguments, "--out", f"file://{tmp_path}/out"], monkeypatch, capsys)
    check(end, 1, rf"\d shards failed; [\w/-]+: {text}\. Run the same command again to continue")


def test_bench_preprocess_shows_a_workers_error_in_one_line(raw, fault, monkeypatch, capsys) -> None:
    error, code, text = fault
    monkeypatch.setattr(bench_preprocess, "_flow_alone", remote_raiser(error))
    arguments = ["preprocess", "--format", "ucf101", "--source", f"{raw}/videos", "--annotations", str(raw)]
    check(end_of("jobs.bench", arguments, monkeypatch, capsys), code, text)


def test_verify_goes_on_with_the_other_shards_and_names_those_that_failed(tiny_set, monkeypatch, capsys) -> None:
    from jobs.verify import command

    monkeypatch.setattr(verify_tasks, "_verify", remote_raiser(StorageError("the bucket is gone")))
    monkeypatch.setattr(verify_tasks, "_FEW_SHARDS", 0)
    assert command.main([tiny_set]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert re.search(r"^5 parts could not be verified \([\w/-]+: the bucket is gone\)", printed.out, re.MULTILINE)
