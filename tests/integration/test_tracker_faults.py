"""A real tracking server that is killed, stopped or lost between: its history is what was logged, each point once."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from jobs import sync as sync_job
from pipeline.storage import Storage, open_storage
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.paths import ROOT
from tests.support.tracked_runs import assert_complete, log_steps, page_of, pages_of
from tests.support.tracking_server import TrackingServer, started_tracking_server

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with started_tracking_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def proxy(server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(server.address) as made:
        monkeypatch.setenv("RECIPROCAL_STACK", "off")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.endpoint)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        yield made


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/run{next(_numbers)}")


CALLS = {
    "find the experiment": "experiments/get-by-name",
    "make the experiment": "experiments/create",
    "find the run": "runs/search",
    "make the run": "runs/create",
    "read the run": "runs/log-batch|runs/get",  # it is read after a failure
    "points and tags": "runs/log-batch",
    "artifacts": "mlflow-artifacts",
    "status": "runs/update",
}


@pytest.mark.parametrize("fault", ["bad_request", "server_error", "lose_answer"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_twice_costs_nothing(
    server: TrackingServer, proxy: FaultProxy, run: Storage, call: str, fault: str
) -> None:
    page = page_of(run)
    if call == "find the run":  # it is looked for where there is the experiment
        mlflow.MlflowClient(server.address).create_experiment(page.record.experiment)
    proxy.faults = Faults(path=CALLS[call])
    proxy.script.extend([fault, fault])
    page.log_text("{}", "config.json")
    page.start()
    log_steps(run, range(20), 0.02)
    page.set_tags({"bottleneck": "compute"})
    assert page.finish("FINISHED", wait_s=60)
    assert proxy.counts[fault] >= 1  # what was made although the answer was lost is not made again
    found = assert_complete(server, run, range(20))
    assert found.data.tags["bottleneck"] == "compute"
    artifacts = mlflow.MlflowClient(server.address).list_artifacts(found.info.run_id)
    assert [file.path for file in artifacts] == ["config.json"]
    assert str(page).endswith(f"/experiments/{found.info.experiment_id}/runs/{found.info.run_id}")


@pytest.mark.parametrize("fault", ["bad_request", "server_error", "reset", "lose_answer"])
def test_a_server_that_fails_for_seconds_costs_a_line_and_no_point(
    server: TrackingServer, proxy: FaultProxy, run: Storage, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    page = page_of(run)
    page.start()
    timer = threading.Timer(4.0, lambda: setattr(proxy, "faults", Faults()))
    with caplog.at_level(logging.INFO):
        timer.start()
        proxy.faults = Faults(**{fault: 1.0})
        assert log_steps(run, range(60), 0.1) < 0.5
        assert page.finish("FINISHED", wait_s=60)
    timer.join()
    assert_complete(server, run, range(60))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([line for line in warnings if "the run goes on" in line]) == 1, warnings
    assert any("MLflow answers again" in message for message in caplog.messages)


def test_a_killed_server_that_comes_back_has_every_point_once(
    server: TrackingServer, proxy: FaultProxy, run: Storage
) -> None:
    page = page_of(run)
    page.start()
    log_steps(run, range(10), 0.05)
    server.kill()
    log_steps(run, range(10, 30), 0.02)
    server.start()
    log_steps(run, range(30, 40))
    assert page.finish("FINISHED", wait_s=60)
    assert_complete(server, run, range(40))


def test_a_frozen_server_holds_nothing_up_and_a_later_command_sends_the_rest(
    server: TrackingServer, proxy: FaultProxy, run: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    page = page_of(run)
    page.start()
    log_steps(run, range(10), 0.02)
    server.freeze()
    try:
        assert log_steps(run, range(10, 40), 0.05) < 0.5
        start_s = time.monotonic()
        assert not page.finish("FINISHED", wait_s=2.0)
        assert time.monotonic() - start_s < 4.0
        assert f"`python -m jobs.sync {run.uri}` sends it" in caplog.text
    finally:
        server.thaw()
    assert sync_job.main([run.uri]) == 0
    assert_complete(server, run, range(40))
    assert sync_job.main([run.uri]) == 0  # and once more
    assert_complete(server, run, range(40))


def test_a_server_that_is_away_from_start_to_end_gets_the_run_later_with_its_own_times(
    server: TrackingServer, proxy: FaultProxy, run: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.down()
    before_ms = time.time() * 1000
    page = page_of(run)
    start_s = time.monotonic()
    page.start()
    assert time.monotonic() - start_s < 15
    assert page.tracking_run_id == ""
    assert "none yet" in str(page)
    log_steps(run, range(20))
    assert not page.finish("FINISHED", wait_s=1.0)
    after_ms = time.time() * 1000
    assert sync_job.main([run.uri, "--wait-s", "2"]) == 1
    time.sleep(1.0)
    proxy.up()
    assert sync_job.main([run.uri]) == 0
    found = assert_complete(server, run, range(20))
    assert before_ms - 1 <= found.info.start_time <= found.info.end_time <= after_ms + 1
    assert found.info.run_id in capsys.readouterr().out


def test_steps_that_a_restarted_rank_does_again_are_not_sent_again(
    server: TrackingServer, proxy: FaultProxy, run: Storage
) -> None:
    page = page_of(run)
    page.start()
    log_steps(run, range(23), 0.02)
    log_steps(run, range(10, 31), 0.02)  # from the checkpoint of step 10
    assert page.finish("FAILED")
    again = page_of(run)  # the same command once more, from a checkpoint before what MLflow has
    again.start()
    log_steps(run, range(20, 40), 0.02)
    assert again.finish("FINISHED")
    assert_complete(server, run, range(40))


KILLED = """
import sys, time
from pipeline.storage import open_storage
from tests.support.tracked_runs import log_steps, page_of
run = open_storage(sys.argv[1])
page = page_of(run)
page.start()
log_steps(run, range(20), 0.02)
print("logged", flush=True)
time.sleep(600)
"""


def test_a_run_whose_command_was_killed_is_put_right(server: TrackingServer, proxy: FaultProxy, run: Storage) -> None:
    command = [sys.executable, "-c", KILLED, run.uri]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=env, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "logged\n"
        child.send_signal(signal.SIGKILL)
    killed_ms = time.time() * 1000
    (found,) = pages_of(server, run)
    assert found.info.status == "RUNNING"
    time.sleep(1.0)
    assert sync_job.main([run.uri]) == 0
    assert_complete(server, run, range(20), "KILLED")
    (found,) = pages_of(server, run)
    assert found.info.end_time <= killed_ms, "as of its last entry"
    again = page_of(run)  # the command, once more
    again.start()
    log_steps(run, range(15, 30))
    assert again.finish("FINISHED")
    assert_complete(server, run, range(30))


def test_what_mlflow_itself_refuses_holds_nothing_else_up(
    server: TrackingServer, proxy: FaultProxy, run: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    page = page_of(run)
    page.start()
    page.log_metrics({"no name!": 1.0}, 3)
    page.set_tags({"k" * 300: "too long a key"})
    log_steps(run, range(20), 0.02)
    assert not page.finish("FINISHED", wait_s=40)
    assert "it refuses 2 entries" in caplog.text
    assert "MLflow refuses no name! of step 3" in caplog.text
    assert_complete(server, run, range(20))


def test_a_page_that_somebody_deleted_is_made_again_with_all_points(
    server: TrackingServer, proxy: FaultProxy, run: Storage
) -> None:
    page = page_of(run)
    page.start()
    log_steps(run, range(10), 0.02)
    time.sleep(1.0)
    mlflow.MlflowClient(server.address).delete_run(page.tracking_run_id)
    log_steps(run, range(10, 20), 0.02)
    assert page.finish("FINISHED", wait_s=60)
    assert_complete(server, run, range(20))


def test_results_that_are_logged_again_are_points_again_and_each_is_sent_once(
    server: TrackingServer, proxy: FaultProxy, run: Storage
) -> None:
    for value, script in ((0.25, []), (0.5, ["lose_answer", "lose_answer"])):
        page = page_of(run)
        page.log_scores({"test/top1_4x1": value})
        proxy.faults = Faults(path="runs/log-batch")
        proxy.script.extend(script)
        assert page.finish(wait_s=60)
    (found,) = pages_of(server, run)
    history = mlflow.MlflowClient(server.address).get_metric_history(found.info.run_id, "test/top1_4x1")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (0, 0.5)]
