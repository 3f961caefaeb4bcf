"""Runs of ``jobs.preprocess`` on a local stack that are disturbed on purpose, and what must be true afterwards.

Shared by tests/integration/test_preprocess_faults.py (a handful of disturbances, in CI) and
tests/integration/soak_preprocess.py (many, by hand).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from infra import local, process, ray_head, s3_gateway
from infra.process import ProcessId
from infra.records import load_servers, write_stack
from infra.server import token_of
from pipeline.config.stack import Stack, find_stack
from pipeline.storage import open_storage
from preprocessing.synthetic.generate import SyntheticConfig, generate
from tests.support.paths import ROOT

TARGETS = ("worker", "driver", "node", "s3", "head")  # node: the second one; head: the one with Ray's control service
RUN_TIMEOUT_S = 120.0
_NUM_BROKEN = 2  # of the listed videos: one is a web page, one does not exist


@dataclasses.dataclass(frozen=True)
class Finished:
    """One run of the command that has ended."""

    code: int
    output: str
    seconds: float


class Running:
    """The command in a session of its own; output goes to a file, so that no pipe can stall it."""

    def __init__(self, bench: Bench, out: str, *options: str) -> None:
        self._log = bench.folder / f"run-{time.monotonic_ns()}.log"
        self._start_s = time.monotonic()
        with self._log.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "jobs.preprocess", *bench.arguments, *options, "--out", out],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._child.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        return self._child.poll() is None

    def send(self, number: int) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def wait(self, timeout_s: float = RUN_TIMEOUT_S) -> Finished:
        """Wait for the end; a run that hangs is ended and is an error."""
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the run was still going after {timeout_s:g} s\n{self.output}") from None
        return Finished(code, self.output, time.monotonic() - self._start_s)


@dataclasses.dataclass
class Bench:
    """A running stack (S3, a Ray head with one CPU and a second node with one), clips, and the undisturbed data set."""

    folder: Path
    stack: Stack
    arguments: tuple[str, ...]
    num_inputs: int
    expected: dict[str, str] = dataclasses.field(default_factory=dict)
    undisturbed_s: float = 0.0
    _count: int = 0

    @property
    def temporary(self) -> Path:
        """TMPDIR of every process of the stack and of every run."""
        return self.folder / "tmp"

    def new_out(self) -> str:
        self._count += 1
        return f"s3://{self.stack.bucket}/out-{self._count}"

    def start(self, out: str, *options: str) -> Running:
        return Running(self, out, *options)

    def run(self, out: str) -> Finished:
        return self.start(out).wait()

    def prepare(self) -> None:
        """Make the undisturbed data set that all others are compared with."""
        out = self.new_out()
        done = self.run(out)
        assert done.code == 0, done.output
        self.expected, self.undisturbed_s = digests(out), done.seconds
        assert len(self.expected) > 8

    def faults_of(self, out: str) -> list[str]:
        """What of the stored data set is not as in the undisturbed run; empty where all is."""
        found = digests(out)
        faults = [f"{path} is missing" for path in sorted(self.expected.keys() - found.keys())]
        faults += [f"{path} is stray" for path in sorted(found.keys() - self.expected.keys())]
        faults += [
            f"{path} differs"
            for path in sorted(found.keys() & self.expected.keys())
            if found[path] != self.expected[path]
        ]
        if "manifest.json" in found:
            totals = json.loads(open_storage(out).read("manifest.json"))["totals"]
            if (
                totals["inputs"] != self.num_inputs
                or totals["samples"] + totals["rejects"] != totals["inputs"]
                or totals["rejects"] != _NUM_BROKEN
            ):
                faults.append(f"{self.num_inputs} videos, but {totals}")
        return faults

    def leftovers(self) -> list[str]:
        """Our files in TMPDIR; to be called while nothing runs."""
        theirs = ("ray", "pymp-")  # Ray's own; sockets of Python's multiprocessing, which Ray's dashboard uses
        return sorted(
            p.relative_to(self.temporary).as_posix()
            for p in self.temporary.rglob("*")
            if not p.relative_to(self.temporary).as_posix().startswith(theirs)
        )

    def processes(self, target: str, run: Running) -> list[ProcessId]:
        """What may be killed as ``target``: a worker that builds a shard, a node's daemon, the command, the server."""
        if target == "driver":
            identity = process.identify(run.pid)
            return [identity] if identity and run.alive() else []
        servers = load_servers()
        if target == "s3":
            return [servers.records[s3_gateway.NAME].process]
        if target == "worker":  # found at once: on a busy machine the tasks are over before all families are known
            return [found for found in map(process.identify, self._builders()) if found]
        nodes = {
            name: r
            for name, r in servers.records.items()
            if name.startswith(ray_head.NAME) and (name == ray_head.NAME) == (target == "head")
        }
        family = [
            p for name, record in nodes.items() for p in process.family([record.process], token_of(servers, name))
        ]
        return [p for p in family if "raylet/raylet" in _command_line(p) and "ray::" not in _command_line(p)]

    def _builders(self) -> Iterator[int]:
        """Ids of the stack's processes that build a shard."""
        for found in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                builds = "".join(found.cmdline()[:1]).startswith("ray::_build")
                if builds and found.environ().get("RECIPROCAL_HOME") == str(self.folder / "home"):
                    yield found.pid

    def kill(self, target: str, run: Running, chance: random.Random) -> bool:
        """SIGKILL to one of ``target``; waits for one to be there. False where the run ended before."""
        while run.alive():
            found = self.processes(target, run)
            if found and process.send(chance.choice(found), signal.SIGKILL):
                return True
            time.sleep(0.05)
        return False

    def repair(self, target: str) -> None:
        """Bring back what was killed, as an operator does."""
        if target in ("s3", "head"):
            local.up(ray_cpus=1)
        if target in ("node", "head"):
            local.add_node(cpus=1)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One disturbance: when, whether the disturbed run finished without help, and what is wrong after the re-run."""

    target: str
    objects: int
    at_s: float
    killed: bool
    came_through: bool
    reruns: int
    faults: list[str]
    seconds: float
    output: str

    def __str__(self) -> str:
        first = "came through" if self.came_through else "ended"
        what = "identical" if not self.faults else "; ".join(self.faults)
        return (
            f"{self.target:6} at {self.at_s:5.2f} s, {max(0, self.objects):2} objects stored:"
            f" {'killed' if self.killed else 'too late'}, the run {first}, {self.reruns} re-runs, {self.seconds:.0f} s"
            f" in all: {what}"
        )


def disturb(bench: Bench, target: str, chance: random.Random) -> Outcome:
    """Kill ``target`` at a random moment of a new run, bring it back, run the command again, and compare."""
    out, began_s = bench.new_out(), time.monotonic()
    run = bench.start(out)
    # A share of the progress, not of the time, which depends on the machine; the command itself may also go while it
    # starts.
    # A worker has to be found while it builds, so early enough.
    most = (len(bench.expected) - 4) // (2 if target == "worker" else 1)
    objects = chance.randrange(-3 if target == "driver" else 0, most)
    if objects < 0:
        time.sleep(chance.uniform(0, 6))
    else:
        storage = open_storage(out)
        while run.alive() and sum("/shard-" in path for path in storage.list()) < objects:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.5))
    killed = bench.kill(target, run, chance)
    at_s = time.monotonic() - began_s
    if target == "s3":
        time.sleep(chance.uniform(0.2, 2.0))
    if killed and target != "head":
        bench.repair(target)
    first = run.wait() if target != "driver" else None
    if killed and target == "head":
        bench.repair(target)  # a new head is another cluster: whoever was connected to the old one waits in vain
    came_through = first is not None and first.code == 0
    text, reruns = run.output, 0
    while reruns < 3:
        reruns += 1  # even after success: a finished data set must not be touched
        again = bench.run(out)
        text += f"\n--- re-run {reruns}: exit code {again.code}\n{again.output}"
        if again.code == 0:
            break
    faults = bench.faults_of(out)
    if left := settled(bench):
        faults.append(f"left in TMPDIR: {left}")
    return Outcome(target, objects, at_s, killed, came_through, reruns, faults, time.monotonic() - began_s, text)


def settled(bench: Bench, timeout_s: float = 5.0) -> list[str]:
    """Leftovers once orphaned tasks of a killed run have ended."""
    deadline = time.monotonic() + timeout_s
    while (left := bench.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def digests(out: str) -> dict[str, str]:
    """sha256 of every object (of every file, hidden ones too) below a data set's root."""
    if out.startswith("file://"):
        root = Path(out.removeprefix("file://"))
        return {
            p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }
    storage = open_storage(out)
    return {path: hashlib.sha256(storage.read(path)).hexdigest() for path in storage.list()}


def make_clips(folder: Path, *, frames: int = 14) -> tuple[tuple[str, ...], int]:
    """24 small clips, of which one is a web page and one is not there; the command's arguments without --out, and
    how many are listed.
    """
    raw = folder / "raw"
    generate(
        SyntheticConfig(
            out=raw, train=4, val=1, test=1, appearances=2, motions=2, min_frames=frames, max_frames=frames + 4
        )
    )
    listed = [line.rsplit(" ", 1)[0] for line in (raw / "trainlist01.txt").read_text().splitlines()]
    (raw / "videos" / listed[3]).write_text("<html>not found</html>")
    (raw / "videos" / listed[8]).unlink()
    arguments = (
        "--format",
        "ucf101",
        "--source",
        str(raw / "videos"),
        "--annotations",
        str(raw),
        "--name",
        "toy",
        "--stored.short-side",
        "48",
        "--samples-per-shard",
        "4",
        "--max-rejects",
        str(_NUM_BROKEN),
    )
    return arguments, 24


@contextlib.contextmanager
def started_bench(folder: Path) -> Iterator[Bench]:
    """Start a stack of two Ray nodes below ``folder``; end it, and remove what it left outside, at last."""
    changes = {
        "RECIPROCAL_HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "RECIPROCAL_STACK": "",
        "RECIPROCAL_S3_DEADLINE_S": "60",
    }
    before = {name: os.environ.get(name) for name in changes}
    (folder / "tmp").mkdir(parents=True)
    os.environ.update(changes)
    try:
        local.up(ray_cpus=1)
        local.add_node(cpus=1)
        stack = find_stack()
        assert stack is not None
        arguments, num_inputs = make_clips(folder)
        bench = Bench(folder, stack, arguments, num_inputs)
        bench.prepare()
        yield bench
    finally:
        local.down()
        shutil.rmtree(ray_head.temporary_folder().parent, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def s3_behind(bench: Bench, endpoint: str) -> Iterator[None]:
    """Every client of the stack, on every node, reaches the S3 server through ``endpoint`` (a proxy's) for a while."""
    write_stack(dataclasses.replace(bench.stack, s3_endpoint=endpoint))
    try:
        yield
    finally:
        write_stack(bench.stack)


def _command_line(identity: ProcessId) -> str:
    try:
        return Path(f"/proc/{identity.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
