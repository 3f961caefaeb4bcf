"""The meter's figures of each rank, against hand sums and against ranks that are slow on purpose."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from threadpoolctl import threadpool_limits

from pipeline.training import speed
from pipeline.training.meter import Meter, find_straggler
from pipeline.training.speed import Speed, matrix_rate
from pipeline.training.startup import Startup
from pipeline.training.timing import StepTimes
from tests.support.training_runs import free_port

SLOW_S, STEPS = 0.05, 8


class NoLoader:
    def metrics(self) -> dict[str, float]:
        return {"fetch_wait_s": 0.0, "decode_s": 1.0, "bytes": 5}


def test_the_straggler_is_the_rank_that_works_longest_and_costs_what_it_is_above_the_others() -> None:
    assert find_straggler([3.0, 5.0, 4.0, 2.0]) == (1, 5.0 - 3.0)
    assert find_straggler([2.0, 2.0]) == (0, 0.0)


def test_mfu_is_flop_done_a_second_over_the_peak() -> None:
    own: dict[str, float] = {}
    meter = Meter(speed=lambda: Speed(flop_per_clip=3e6, peak_flops=1e9), observe=own.update)
    meter.begin(torch.nn.Linear(1, 1), NoLoader(), torch.device("cpu"), batch_size=4, rank=0)
    curve: dict[str, float] = {}
    for _ in range(2):
        assert "train/mfu" not in curve  # before the first point nothing is measured that would delay the first step
        for _ in range(5):
            with meter.times.measure("step_s"):
                time.sleep(0.002)
            meter.step_ended()
        curve = meter.curve()
    assert curve["train/mfu"] == pytest.approx(curve["train/clips_per_s"] * 3e6 / 1e9)
    assert own["mfu"] == curve["train/mfu"]
    assert 0 < curve["train/clips_per_s"] < 4 / 0.002
    assert own["loader_bytes"] == 5
    assert "train/straggler_share" not in curve  # one rank has nobody to wait for


def test_a_checkpoint_and_a_validation_count_in_no_share_of_the_steps() -> None:
    times = StepTimes()
    for stage in ("wait_s", "copy_s", "step_s", "checkpoint_s", "validate_s"):
        with times.measure(stage):
            time.sleep(0.002)
    assert times.total_s == times.wait_s + times.copy_s + times.step_s
    assert min(times.checkpoint_s, times.validate_s) >= 0.002


def test_the_rate_of_matrix_products_is_that_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 512
    monkeypatch.setitem(speed._SIDE, "cpu", side)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        a = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
        ratios = []
        for _ in range(5):
            start_s = time.perf_counter()
            np.matmul(a, a)
            numpy_rate = 2 * side**3 / (time.perf_counter() - start_s)
            ratios.append(matrix_rate(torch.device("cpu"), "fp32") / numpy_rate)
    assert 0.2 < sorted(ratios)[2] < 5  # two libraries on a busy machine: the order of magnitude


def test_the_parts_of_a_start_add_up_whatever_the_clocks_of_two_hosts_say() -> None:
    startup = Startup(100.0, [("driver", 104.0), ("placement", 103.0), ("imports", 109.0)])
    startup.mark("model", 110.5)
    assert startup.parts() == {"driver": 4.0, "placement": 0.0, "imports": 5.0, "model": 1.5}
    assert str(startup) == "the first step was done after 10.5 s (driver 4.0, placement 0.0, imports 5.0, model 1.5)"


def _rank(rank: int, port: int, slow_stage: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    meter = Meter(node=f"node-{rank}")
    meter.times.begin(0)
    meter.begin(wrapped, NoLoader(), torch.device("cpu"), batch_size=4, rank=rank)
    for step in range(STEPS):
        with meter.times.measure("wait_s"):
            time.sleep(SLOW_S if rank == 1 and slow_stage == "wait_s" else 0)
        with meter.times.measure("step_s"):
            time.sleep(SLOW_S if rank == 1 and slow_stage == "step_s" else 0)
            wrapped(torch.randn(2, 8)).sum().backward()
        meter.step_ended()
        if step == 1:
            assert "train/straggler_share" not in meter.curve()  # two steps say little
            meter.restart()
    curve = meter.curve()
    line = meter.straggler_line(curve)
    (Path(folder) / f"{rank}.json").write_text(json.dumps({"curve": curve, "line": line}))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("slow_stage", ["wait_s", "step_s"])
def test_a_slow_rank_is_named_by_all_whether_it_waits_or_computes(tmp_path: Path, slow_stage: str) -> None:
    mp.spawn(_rank, args=(free_port(), slow_stage, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    curve = first["curve"]
    assert curve["train/slowest_rank"] == 1
    # Rank 1 sleeps in every step, rank 0 waits for it in the exchange, of which the last step's is not yet known.
    assert curve["train/straggler_share"] > 0.5
    assert curve["train/exchange_share"] > 0.25  # of the mean of both
    assert first["line"].startswith("; rank 1 on node-1 is the slowest: the others wait for it ")
