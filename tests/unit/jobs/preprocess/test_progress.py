"""What progress says while shards are built, and while they wait."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import ray

from jobs.cluster import occupancy
from jobs.preprocess import estimate, progress
from jobs.preprocess.progress import ProgressView
from pipeline.common.words import counted


class Board:
    """Answers with what the test set, as the actor does."""

    def __init__(self) -> None:
        self.now: tuple[int, int, int] = (0, 0, 0)
        self.totals = SimpleNamespace(remote=lambda: self.now)
        self.finished = SimpleNamespace(remote=lambda path: None)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_ASK_EVERY_S", 0.0)
    monkeypatch.setattr(ray, "get", lambda answer, timeout=None: answer)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(progress, "other_users", lambda: "python -m jobs.train crn_demo (7 CPUs)")
    return Board()


def lines(view: ProgressView, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        view.refresh()
    (record,) = caplog.records
    return record.getMessage()


def test_while_nothing_runs_it_says_what_it_waits_for_and_who_has_it(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    assert lines(ProgressView(board, 3, 10), caplog) == (
        "0 of 10 videos, 3 shards wait for a free CPU: 1 of 8 CPUs are free; in use by python -m jobs.train crn_demo"
        " (7 CPUs)"
    )
    assert lines(ProgressView(board, 1, 10, gpus=True), caplog) == (
        "0 of 10 videos, 1 shard waits for a free GPU: 1 of 8 CPUs are free and 0 of 2 GPUs; in use by"
        " python -m jobs.train crn_demo (7 CPUs)"
    )


def test_no_rate_and_no_time_left_are_made_up_before_the_first_video(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    view = ProgressView(board, 3, 10)
    board.now = (2, 0, 0)
    text = lines(view, caplog)
    assert "inf" not in text
    assert "left" not in text
    assert "wait" not in text
    board.now = (2, 4, 100)
    assert lines(view, caplog).endswith(" s left")


def test_the_rest_of_a_run_may_wait_as_well(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    view = ProgressView(board, 3, 10)
    view.shard_done("train/shard-000000", 4, 40, 0)
    assert "0 rejected; 2 shards wait for a free CPU" in lines(view, caplog)


def test_time_of_waiting_is_no_time_of_work(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    view = ProgressView(board, 3, 10)
    now_s += 500.0
    view.refresh()
    now_s += 2.0
    assert view.rates(4, 40) == (2.0, 20.0)


def test_without_a_ray_nobody_is_named_and_none_is_started() -> None:
    assert occupancy.other_users() == ""
    assert not ray.is_initialized()


def test_a_private_ray_has_no_other_user_and_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        raise AssertionError("it has no dashboard to ask")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RECIPROCAL_STACK", "off")
    monkeypatch.setattr(occupancy.state, "list_actors", never)
    monkeypatch.setattr(occupancy, "_by_job", never)
    assert occupancy.other_users() == ""


def test_without_ray_s_state_api_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_dashboard(**_: object) -> None:
        raise RuntimeError("Failed to connect to the API server")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(occupancy, "is_private", lambda: False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))
    monkeypatch.setattr(occupancy.state, "list_actors", no_dashboard)
    assert occupancy.other_users() == ""


def test_users_of_the_cluster_are_added_up_by_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def user(job: str, cpus: float, **more: object) -> SimpleNamespace:
        return SimpleNamespace(job_id=job, required_resources={"CPU": cpus}, **more)

    grouped = {"CPU_group_0_ab12": 1.0, "CPU_group_ab12": 1.0, "bundle_group_ab12": 0.001, "GPU_group_ab12": 1.0}
    rank = SimpleNamespace(job_id="02", required_resources=grouped)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(occupancy, "is_private", lambda: False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))
    monkeypatch.setattr(occupancy.state, "list_actors", lambda **_: [rank, user("02", 1), user("03", 0)])
    monkeypatch.setattr(
        occupancy.state,
        "list_tasks",
        lambda **_: [
            user("01", 4, type="NORMAL_TASK"),
            user("04", 1, type="NORMAL_TASK"),
            user("02", 1, type="ACTOR_TASK"),
        ],
    )
    jobs = [SimpleNamespace(job_id="02", entrypoint="python  -m jobs.train " + "x" * 80)]
    monkeypatch.setattr(occupancy.state, "list_jobs", lambda **_: jobs)
    assert occupancy.other_users() == f"python -m jobs.train {'x' * 36}... (2 CPUs, 1 GPU), job 04 (1 CPU)"


def test_a_command_whose_tasks_all_wait_says_so_and_one_that_works_does_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(occupancy, "_FIRST_NOTICE_S", 0.0)
    monkeypatch.setattr(occupancy, "_NOTICE_S", 0.0)
    monkeypatch.setattr(occupancy, "other_users", lambda: "another (2 CPUs)")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {})
    running = [SimpleNamespace(job_id="01")]
    monkeypatch.setattr(occupancy.state, "list_tasks", lambda **_: running)
    notice = occupancy.WaitNotice()
    with caplog.at_level(logging.INFO):
        notice()
        assert caplog.records == []
        running.clear()
        notice()
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for free CPUs: 0 of 2 CPUs are free; in use by another (2 CPUs)"
    ]


def test_the_cost_of_one_video_has_no_error_estimate() -> None:
    assert estimate._error(float("nan")) == " (one video says nothing about the spread)"
    assert estimate._error(0.5) == " ± 0.50"


def test_one_thing_is_singular() -> None:
    assert [counted(n, "fault") for n in (0, 1, 2)] == ["0 faults", "1 fault", "2 faults"]
    assert [counted(n, "class", "classes") for n in (1, 3)] == ["1 class", "3 classes"]
