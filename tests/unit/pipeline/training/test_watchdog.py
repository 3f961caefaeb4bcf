"""The watchdog ends real hangs and says what hangs; what is merely slow it leaves alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ReciprocalError, StepTimeoutError
from pipeline.storage import open_storage
from pipeline.storage.local import LocalStorage
from pipeline.training.hang import HangReports
from pipeline.training.timing import StepTimes, timed
from pipeline.training.watchdog import Watchdog, collective_limit_s
from tests.support.training_runs import free_port

pytestmark = pytest.mark.slow

LIMIT_S = 1.0


class Stuck(LocalStorage):
    """A data set one of whose samples never arrives, until ``release``."""

    release = threading.Event()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if (path, offset) == self.stuck:
            self.release.wait()
        return super().read_range(path, offset, length)

    stuck = ("", 0)


@pytest.fixture
def stuck(tiny_set: str) -> Iterator[Stuck]:
    Stuck.release.clear()
    yield Stuck(tiny_set.removeprefix("file://"))
    Stuck.release.set()


def test_a_loader_that_never_delivers_ends_with_shard_and_key(stuck: Stuck, tmp_path: Path) -> None:
    data = DataConfig(uri=stuck.uri, batch_size=4, val_split="", decoder="reference")
    clip = ClipConfig(num_frames=4, crop=32, resize=32)
    times = StepTimes()
    watchdog = Watchdog(times, LIMIT_S)
    watchdog.reports = HangReports(open_storage(f"file://{tmp_path}"), "a", 0, ["host"])
    manifest = read_manifest(stuck)
    with make_loader(
        stuck, manifest, "train", data=data, clip=clip, modalities=("rgb",), train=False, seed=0
    ) as loader:
        sample = loader.index.sample_range(9)  # of step 2; the loader begins a batch before it hands over the last
        Stuck.stuck = (sample.tar, sample.offset)
        watchdog.waiting_for = loader.waiting_for

        def train() -> None:
            times.begin(40)
            for _ in timed(loader.iter_epoch(0), times):
                with times.measure("step_s"):
                    pass
                times.steps += 1

        with pytest.raises(StepTimeoutError) as error:
            watchdog.run(train)
        Stuck.release.set()
    text = str(error.value)
    assert text.startswith(f"step 41 made no progress for {LIMIT_S:g} s (run.step_timeout_s): rank 0 on host waits for")
    assert f"sample {sample.key} of {stuck.uri}/{sample.tar}" in text
    assert f"stacks of all ranks: file://{tmp_path}/hangs/a/" in text
    stacks = (tmp_path / "hangs/a/rank-0.txt").read_text()
    assert all(name in stacks for name in ("read_ahead.py", "fetcher.py", "test_watchdog.py"))


def _rank(rank: int, port: int, folder: str, fault: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    times = StepTimes()
    watchdog = Watchdog(times, LIMIT_S)
    watchdog.reports = HangReports(open_storage(f"file://{folder}"), "a", rank, ["left", "right"])

    def compute(step: int) -> torch.Tensor:
        if rank == 1 and step == 2:
            if fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            else:
                time.sleep(600)
        return model(torch.ones(2, 4)).sum()

    def train() -> None:
        times.begin(0)
        for step in range(5):
            with times.measure("step_s"):
                compute(step).backward()
            times.steps += 1

    try:
        watchdog.run(train)
    except StepTimeoutError as error:
        (Path(folder) / f"{rank}.error").write_text(str(error))
    os._exit(0)  # as Ray ends a rank: its hanging thread goes with the process


def hang(folder: Path, fault: str) -> dict[int, str]:
    """What each of two ranks says when rank 1 hangs in step 2."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, port, str(folder), fault)) for rank in (0, 1)]
    try:
        for rank in ranks:
            rank.start()
        ranks[0].join(60)
        if fault != "stop":
            ranks[1].join(60)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return {rank: (folder / f"{rank}.error").read_text() for rank in (0, 1) if (folder / f"{rank}.error").exists()}


@pytest.mark.slow
def test_a_stopped_rank_is_named_by_the_one_that_waits_for_it(tmp_path: Path) -> None:
    errors = hang(tmp_path, "stop")
    assert list(errors) == [0]
    assert errors[0].startswith("step 2 made no progress for 1 s (run.step_timeout_s): rank 1 on right does not answer")
    assert "rank 0 waits for it" in errors[0]
    assert "in backward" in (tmp_path / "hangs/a/rank-0.txt").read_text()


@pytest.mark.slow
def test_a_rank_that_computes_without_end_is_named_by_both(tmp_path: Path) -> None:
    errors = hang(tmp_path, "sleep")
    assert errors[0] == errors[1]
    assert "rank 1 on right computes in compute (tests/unit/pipeline/training/test_watchdog.py:" in errors[0]
    assert "rank 0 waits for it" in errors[0]
    assert "in compute" in (tmp_path / "hangs/a/rank-1.txt").read_text()


def test_what_is_slow_is_not_ended() -> None:
    """Many batches, a checkpoint and start-up that together, or each, take longer than the limit."""
    times = StepTimes()

    def train() -> str:
        time.sleep(0.5)
        times.begin(0)
        for _ in range(6):
            with times.measure("step_s"):
                time.sleep(0.1)
            times.steps += 1
        with times.measure("checkpoint_s"):
            time.sleep(0.8)
        return "done"

    assert Watchdog(times, 0.3).run(train) == "done"


def test_a_first_step_that_compiles_has_three_times_as_long() -> None:
    times = StepTimes()

    def train() -> None:
        times.begin(0)
        for seconds in (0.5, 0.5):
            with times.measure("step_s"):
                time.sleep(seconds)
            times.steps += 1

    with pytest.raises(StepTimeoutError, match=r"^step 1 made no progress for 0\.3 s"):
        Watchdog(times, 0.3, compiles=True).run(train)
    assert times.steps == 1


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    def work() -> None:
        times = StepTimes()

        def train() -> None:
            times.begin(0)
            for _ in range(5):
                with times.measure("step_s"):
                    time.sleep(0.1)

        Watchdog(times, 0.8).run(train)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    time.sleep(0.25)
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    process.join(20)
    assert process.exitcode == 0


def test_without_a_limit_the_work_stays_in_its_thread() -> None:
    assert Watchdog(StepTimes(), 0).run(threading.current_thread) is threading.current_thread()
    assert Watchdog(StepTimes(), 5).run(threading.current_thread) is not threading.current_thread()


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    def fail() -> None:
        raise ReciprocalError("of the work")

    with pytest.raises(ReciprocalError, match=r"^of the work$"):
        Watchdog(StepTimes(), 5).run(fail)


def test_a_storage_that_hangs_too_does_not_keep_the_error_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = StepTimes()
    watchdog = Watchdog(times, 0.2)

    class Silent(LocalStorage):
        def write(self, path: str, data: bytes) -> None:
            time.sleep(600)

    monkeypatch.setattr("pipeline.training.hang._LONGEST_WAIT_S", 0.5)
    watchdog.reports = HangReports(Silent("/nowhere"), "a", 0, ["host"])

    def train() -> None:
        times.begin(0)
        with times.measure("step_s"):
            time.sleep(600)

    with pytest.raises(
        StepTimeoutError, match=r"computes in train .*; stacks not stored: file:///nowhere does not answer"
    ):
        watchdog.run(train)


@pytest.mark.parametrize(("limit_s", "compiles", "seconds"), [(0, False, 600), (600, False, 720), (600, True, 1920)])
def test_collectives_wait_longer_than_the_watchdog(limit_s: float, compiles: bool, seconds: int) -> None:
    assert collective_limit_s(limit_s, compiles) == seconds
