"""A local stack of several Ray nodes whose parts are killed, stopped and brought back while trainings run on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from infra import control, local, mlflow_server, process, ray_head, s3_gateway
from infra.process import ProcessId
from infra.records import load_servers, locked
from infra.server import launch, stop, token_of, wait_healthy
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.preprocess import StoredConfig
from pipeline.config.stack import Stack, find_stack
from pipeline.errors import NotFoundError
from pipeline.storage import Storage, open_storage
from tests.support.paths import ROOT
from tests.support.synthetic_set import store_synthetic

S3, MLFLOW = s3_gateway.NAME, mlflow_server.NAME
_PREEMPTION = "DRAIN_NODE_REASON_PREEMPTION"


class TrainingStack:
    """S3, MLflow and a Ray head, with more nodes where they are added; ``started_stack`` makes one."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder, self.stack = folder, stack
        self._ids: dict[str, str] = {}

    @property
    def temporary(self) -> Path:
        """TMPDIR of all processes of the stack and of every command."""
        return self.folder / "tmp"

    def store_set(self, **synthetic: int) -> str:
        """Generate and store RGB videos; fields as of ``SyntheticConfig``. Returns the data set's URI, on S3."""
        stored = StoredConfig(short_side=64, modalities=("rgb",))
        made = open_storage(store_synthetic(self.folder / "made", "chaos", stored, 32, **synthetic))
        there = open_storage(f"s3://{self.stack.bucket}/set")
        for path in sorted(made.list(), key=lambda path: path == "manifest.json"):
            there.write(path, made.read(path))
        return there.uri

    def add_node(self, cpus: int) -> str:
        """One more node; its name."""
        before = set(self._node_ids())
        name = local.add_node(cpus=cpus).name
        (self._ids[name],) = set(self._node_ids()) - before
        return name

    def _node_ids(self) -> list[str]:
        return [node.hex() for node, info in self._gcs().get_all_node_info().items() if info.state == 0]

    def _gcs(self) -> Any:
        import ray

        return ray._raylet.GcsClient(address=self.stack.ray_address)

    def give_notice(self, name: str, seconds: float) -> None:
        """Announce that a node is taken away after so many seconds. Nothing ends it then."""
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value(_PREEMPTION)
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = self._gcs().drain_node(self._ids[name], reason, "test", deadline_ms)
        assert accepted, why

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to every process of a server or node."""
        for one in self._family(name):
            process.send(one, number)

    def _family(self, name: str) -> list[ProcessId]:
        servers = load_servers()
        return process.family([servers.records[name].process], token_of(servers, name))

    def lose(self, name: str) -> None:
        """A node's processes end as those of a lost machine would."""
        self.send(name, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """S3 or MLflow again, at the same address; waits until it answers."""
        with locked():
            servers = load_servers()
            old, credentials = servers.records[name], s3_gateway.load_credentials()
            stop(old, servers)
            plan = (
                s3_gateway.launch(old.ports, credentials)
                if name == S3
                else mlflow_server.launch(old.ports, self.stack.s3_endpoint, credentials)
            )
            wait_healthy({name: (launch(plan, servers), plan.probe)}, 120)

    def workers(self) -> list[psutil.Process]:
        """Processes of all ranks on this stack, the oldest first."""
        found = []
        for one in psutil.process_iter(["cmdline", "create_time"]):
            if any("RayTrainWorker" in part for part in one.info["cmdline"] or ()) and _home(one) == str(
                self.folder / "home"
            ):
                found.append(one)
        return sorted(found, key=lambda one: one.info["create_time"])

    def controllers(self) -> list[psutil.Process]:
        """Other processes of Ray's that belong to a training."""
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if any("TrainController" in part or "ray::Control" in part for part in one.info["cmdline"] or ())
            and _home(one) == str(self.folder / "home")
        ]


def _home(one: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return one.environ().get("RECIPROCAL_HOME", "")
    return ""


class TrainCommand:
    """``jobs.train`` on a stack, in the background; ``lines`` come with the time at which they were printed."""

    def __init__(self, bench: TrainingStack, run_id: str, *arguments: str) -> None:
        self.run_id, self.log = run_id, bench.folder / f"{run_id}-{time.monotonic_ns()}.log"
        self.started_s = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "jobs.train", *arguments, "--run.run-id", run_id],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, holds: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> None:
        """Wait for something while the command runs. Raises AssertionError where it ends, or the time passes.

        Args:
            every_s: between two looks; a listing of S3 ten times a second takes a fifth of a core from the run.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, f"the command ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s:\n{self.output}"
            time.sleep(every_s)

    def end(self, timeout_s: float) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {timeout_s:.0f} s:\n{self.output}") from None


def newest_step(run: Storage) -> int:
    """Steps of the newest checkpoint; -1 where there is none."""
    return next((entry.order[0] for entry in CheckpointStore(run).entries() if entry.usable), -1)


def read_events(run: Storage) -> list[dict[str, Any]]:
    """Changes of a run's ranks, in their order."""
    try:
        return [json.loads(line) for line in run.read("events.jsonl").decode().splitlines()]
    except NotFoundError:
        return []


@contextlib.contextmanager
def started_stack(folder: Path, ray_cpus: int) -> Iterator[TrainingStack]:
    """Start a stack below ``folder``; end it, and remove what it left outside, at last."""
    os.environ.update(RECIPROCAL_HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"), RECIPROCAL_STACK="")
    os.environ.update(ray_head.authentication(), RAY_TRAIN_V2_ENABLED="1")
    (folder / "tmp").mkdir(parents=True)
    try:
        control.up(ray_cpus=ray_cpus)
        found = find_stack()
        assert found is not None
        yield TrainingStack(folder, found)
    finally:
        local.down()
        shutil.rmtree(ray_head.temporary_folder().parent, ignore_errors=True)
