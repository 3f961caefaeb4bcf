"""What preprocessing survives: its parts killed at random moments, a bucket that fails, full disks, two commands at
once.

After the same command has been run again the data set must be byte-identical to an undisturbed one. Many more kills:
``python tests/integration/soak_preprocess.py --kills 20``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline.storage import open_storage
from tests.support.disks import small_disk
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.paths import ROOT
from tests.support.preprocess_bench import Bench, disturb, s3_behind, settled, started_bench

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with started_bench(tmp_path_factory.mktemp("bench")) as made:
        yield made


_LONG = pytest.mark.long


@pytest.mark.parametrize(
    "target", ["worker", pytest.param("driver", marks=_LONG), pytest.param("node", marks=_LONG), "s3"]
)
def test_a_part_that_is_killed_costs_no_byte(bench: Bench, target: str) -> None:
    outcome = disturb(bench, target, random.Random(f"ci {target}"))
    assert outcome.killed, f"too late\n{outcome.output}"
    assert outcome.faults == [], outcome.output
    assert outcome.came_through or target == "driver", f"it took a re-run\n{outcome.output}"


@_LONG
def test_two_commands_at_once_at_a_bucket_that_fails_in_every_way(bench: Bench) -> None:
    """Two, as when an operator starts the command again while tasks of a lost one still run: both write the same
    bytes.
    """
    faults = Faults(
        reset=0.03,
        slow_down=0.12,
        cut_upload=0.05,
        cut_answer=0.05,
        lose_answer=0.05,
        delay=0.1,
        delay_s=(0.1, 1.0),
        bytes_per_s=300_000,
    )
    out = bench.new_out()
    with FaultProxy(bench.stack.s3_endpoint, faults, seed=1) as proxy:
        with s3_behind(bench, proxy.endpoint):
            done = [run.wait() for run in [bench.start(out), bench.start(out)]]
        counts = dict(proxy.counts)
    assert [run.code for run in done] == [0, 0], "\n".join(run.output for run in done)
    assert sum(counts.get(kind, 0) for kind in Faults.KINDS) >= 20, counts
    assert bench.faults_of(out) == []


@_LONG
def test_of_two_commands_with_different_parameters_one_is_refused_and_nothing_is_mixed(bench: Bench) -> None:
    """On the stack's S3 server, which accepts conditional writes and ignores the condition."""
    out = bench.new_out()
    runs = [bench.start(out), bench.start(out, "--stored.crf", "30", "--name", "toy")]
    ended = [run.wait() for run in runs]
    assert sorted(done.code for done in ended) == [0, 2], "\n".join(done.output for done in ended)
    refused = next(done for done in ended if done.code == 2).output
    assert "is being written by" in refused or "was made with other parameters" in refused
    assert "Traceback" not in refused
    command = [sys.executable, "-m", "jobs.verify", out]
    verified = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@_LONG
def test_a_command_with_other_parameters_takes_over_from_one_that_was_killed(bench: Bench) -> None:
    out = bench.new_out()
    first, storage = bench.start(out, "--stored.crf", "30"), open_storage(out)
    while first.alive() and not any("/shard-" in path for path in storage.list()):
        time.sleep(0.05)
    assert first.alive(), first.output
    first.kill()
    second = bench.run(out)
    assert second.code == 0, second.output
    assert "taking over from" in second.output
    assert bench.faults_of(out) == []


def test_signals_end_the_command_with_one_line_and_a_rerun_finishes(bench: Bench) -> None:
    out = bench.new_out()
    storage = open_storage(out)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = set(storage.list())
        run = bench.start(out)
        while run.alive() and not any("/shard-" in path for path in set(storage.list()) - before):
            time.sleep(0.05)
        run.send(number)
        done = run.wait(60)
        assert done.code == code, done.output
        assert done.output.rstrip().endswith("run the same command again to continue"), done.output
        assert "Traceback" not in done.output
        assert "***" not in done.output  # a stack of native code
        assert list(storage.list(".lease-")) == []
        assert settled(bench, 20) == []
        assert bench.processes("worker", run) == []
    assert bench.run(out).code == 0
    assert bench.faults_of(out) == []


def test_full_disks_end_the_run_cleanly_and_a_rerun_finishes(bench: Bench) -> None:
    target = bench.folder / "disk"
    with small_disk(target, "96k"):
        full = bench.run(f"file://{target}/out")
        assert full.code == 1, full.output
        assert "No space left" in full.output
        assert "Traceback" not in full.output
        assert not (target / "out/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(target)], check=True)
        with small_disk(bench.temporary, "24k"):
            full = bench.run(f"file://{target}/out")
            assert full.code == 1, full.output
            assert "no space left in the folder for temporary files" in full.output
            assert "Traceback" not in full.output
        done = bench.run(f"file://{target}/out")
        assert done.code == 0, done.output
        assert bench.faults_of(f"file://{target}/out") == []
    assert settled(bench) == []
