"""Two Ray clusters on one host, as two stacks start them: ours is not confused by the other. About two minutes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra import ray_head
from infra.ports import free_port
from infra.records import ServerRecord, Servers
from infra.server import launch, stop, wait_healthy
from tests.support.listening import listening_beyond_this_host
from tests.support.paths import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(500)]

ASK = """
import sys
from jobs.cluster.connect import connect
import ray
from ray.util.state import list_nodes
connect()

@ray.remote(num_cpus=0.1)
class Asker:
    def nodes(self):
        return sorted(node.node_id for node in list_nodes())

actor = Asker.remote()
print("SAME", ray.get(actor.nodes.remote()) == sorted(node["NodeID"] for node in ray.nodes()), flush=True)
"""
ASK_PRIVATE = """
import os
import psutil
from jobs.cluster.connect import connect
import ray
connect()

@ray.remote(num_cpus=0.1)
class Asker:
    def cluster(self):
        context = ray.get_runtime_context()
        return context.gcs_address, os.environ["RAY_ADDRESS"], [node["NodeID"] for node in ray.nodes()]

joined, named, nodes = ray.get(Asker.remote().cluster.remote())
here = ray.get_runtime_context().gcs_address
print("SAME", joined == named == here and nodes == [node["NodeID"] for node in ray.nodes()], flush=True)
lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
pages = ["--disable-frontend" not in line for line in lines if "dashboard.py" in line]
print("SERVERS", sum("gcs_server" in line for line in lines), sum(pages), flush=True)
"""
TRAIN = """
import time
from pathlib import Path
from jobs.cluster.connect import connect
import ray, ray.train, ray.train.torch
from jobs.train.process_group import NodeTorchConfig
connect()

def step():
    import torch, torch.distributed as dist
    total = torch.ones(1)
    dist.all_reduce(total)
    Path({folder!r}, f"rank-{{dist.get_rank()}}").write_text(str(total.item()))
    time.sleep(300)

ray.train.torch.TorchTrainer(
    step,
    torch_config=NodeTorchConfig(backend="gloo", timeout_s=100),
    scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={{"CPU": 1}}),
    run_config=ray.train.RunConfig(storage_path={folder!r}, name="r"),
).fit()
"""
CLEANERS = """
from jobs.cluster.connect import connect
from ray.util.state import list_actors
connect()
alive = [a for a in list_actors(limit=1000) if "PlacementGroupCleaner" in a.class_name and a.state == "ALIVE"]
print("ALIVE", len(alive), flush=True)
"""


def start_head(home: Path, patch: pytest.MonkeyPatch, cpus: int) -> tuple[ServerRecord, Servers]:
    patch.setenv("RECIPROCAL_HOME", str(home))
    servers = Servers(token=f"test-of-ray-clusters-{home.name}")
    plan = ray_head.launch_head({name: free_port() for name in ray_head.PORTS}, cpus)
    record = launch(plan, servers)
    try:
        wait_healthy({plan.name: (record, plan.probe)}, 200)
    except BaseException:
        stop(record, servers)
        raise
    return record, servers


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerRecord, Path]]:
    """Our cluster and its state folder; the other one is there, too."""
    folder = tmp_path_factory.mktemp("clusters")
    started: list[tuple[ServerRecord, Servers, Path]] = []
    with pytest.MonkeyPatch.context() as patch:
        try:
            for name in ("other", "ours"):
                record, servers = start_head(folder / name, patch, 2)
                started.append((record, servers, ray_head.temporary_folder().parent))
            yield started[-1][0], folder / "ours"
        finally:
            for record, servers, files in reversed(started):
                stop(record, servers)
                shutil.rmtree(files, ignore_errors=True)


def environment(clusters: tuple[ServerRecord, Path], **more: str) -> dict[str, str]:
    record, home = clusters
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RECIPROCAL_HOME": str(home), "RECIPROCAL_STACK": "off"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):  # from this process's own import of jobs
        env.pop(name, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(home))
        return {**env, "RAY_ADDRESS": record.address, **ray_head.authentication(), **more}


def run(code: str, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_actor_asks_its_own_cluster(clusters: tuple[ServerRecord, Path]) -> None:
    assert "SAME True" in run(ASK, environment(clusters))


def test_an_actor_of_a_private_ray_asks_that_one(clusters: tuple[ServerRecord, Path]) -> None:
    env = environment(clusters)
    for name in ("RAY_ADDRESS", *ray_head.authentication()):
        del env[name]
    printed = run(ASK_PRIVATE, env)
    assert "SAME True" in printed
    assert "SERVERS 1 0" in printed, "a control service and no dashboard, which would answer anybody on this host"
    assert "Token authentication" not in printed, "Ray's advice to switch the token off"


def test_a_training_listens_on_this_host_alone_and_a_killed_driver_leaves_nothing_behind(
    clusters: tuple[ServerRecord, Path], tmp_path: Path
) -> None:
    env = environment(clusters)
    log = (tmp_path / "log").open("w+")
    driver = subprocess.Popen(
        [sys.executable, "-c", TRAIN.format(folder=str(tmp_path))], cwd=ROOT, env=env, stdout=log, stderr=log
    )
    try:
        end = time.monotonic() + 240
        while not all((tmp_path / f"rank-{rank}").exists() for rank in (0, 1)):
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.5)
        assert {(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)} == {"2.0"}
        head = psutil.Process(clusters[0].pid)
        members = [psutil.Process(driver.pid), head, *head.children(recursive=True)]
        assert sum("RayTrainWorker" in " ".join(member.cmdline()) for member in members) == 2
        assert listening_beyond_this_host(members) == []
        assert "ALIVE 1" in run(CLEANERS, env)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        log.close()
    end = time.monotonic() + 120
    while "ALIVE 0" not in run(CLEANERS, env):
        assert time.monotonic() < end, "the placement group's cleaner outlives its killed driver"
        time.sleep(2)
