"""What happens to a training on a stack, event by event, at set parts of its length."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable

from pipeline.storage import open_storage
from tests.support.training_stack import MLFLOW, S3, TrainCommand, TrainingStack, newest_step, read_events

EVENTS = (
    "mlflow-frozen",
    "node",
    "grow",
    "grow-again",
    "worker",
    "mlflow-away",
    "notice",
    "s3-killed",
    "driver",
    "s3-frozen",
    "mlflow-killed",
)
"""In their order; spread evenly over the run."""
_FROZEN_S, _S3_AWAY_S, _MLFLOW_AWAY_S, _GRACE_S = 15.0, 15.0, 60.0, 25.0
_WAIT_S = 600.0
_LOOK_S = 2.0  # the run must not be slowed down by being watched


@dataclasses.dataclass(frozen=True)
class Done:
    """One event."""

    name: str
    what: str
    at_s: float
    """Seconds since 1970."""
    step: int
    """Of the newest checkpoint."""


class Chaos:
    """One disturbed run.

    Args:
        node: the second node, of two CPUs.
        start: starts the run's command.
        steps: of the whole run.
    """

    def __init__(self, bench: TrainingStack, node: str, start: Callable[[], TrainCommand], steps: int) -> None:
        self._bench, self._start, self._steps = bench, start, steps
        self._node, self._spare = node, ""
        self._run = open_storage(f"s3://{bench.stack.bucket}/runs/disturbed")
        self.done: list[Done] = []
        self.faults: list[str] = []

    def run(self, names: list[str]) -> int:
        """All events; the exit code of the last command."""
        self._command = self._start()
        for number, name in enumerate(names):
            at = int(self._steps * (number + 1) / (len(names) + 1.5))
            self._command.until(lambda at=at: newest_step(self._run) >= at, _WAIT_S, _LOOK_S)
            at_s, step, changes = time.time(), newest_step(self._run), self._changes()
            what = getattr(self, f"_do_{name.replace('-', '_')}")()
            self.done.append(Done(name, what, at_s, step))
            print(f"step {step} of {self._steps}: {name}: {what}", flush=True)
            if name in ("node", "grow", "grow-again", "worker", "notice"):
                self._command.until(lambda changes=changes: self._over() or self._changes() > changes, _WAIT_S, _LOOK_S)
                if self._over():
                    self.faults.append(
                        f"the run was over before {name} changed its ranks: it must be longer (--minutes)"
                    )
                    break
        return self._command.end(_WAIT_S)

    def _over(self) -> bool:
        return self._run.exists("result.json")

    def _changes(self) -> int:
        return len(read_events(self._run))

    def _do_mlflow_frozen(self) -> str:
        return self._frozen(MLFLOW)

    def _do_s3_frozen(self) -> str:
        return self._frozen(S3)

    def _frozen(self, name: str) -> str:
        self._bench.send(name, signal.SIGSTOP)
        time.sleep(_FROZEN_S)
        self._bench.send(name, signal.SIGCONT)
        return f"SIGSTOP for {_FROZEN_S:.0f} s"

    def _away(self, name: str, seconds: float) -> str:
        self._bench.send(name, signal.SIGKILL)
        killed_s = time.monotonic()
        time.sleep(seconds)
        self._bench.restart(name)
        return f"SIGKILL, back after {time.monotonic() - killed_s:.0f} s"

    def _do_mlflow_away(self) -> str:
        return self._away(MLFLOW, _MLFLOW_AWAY_S)

    def _do_mlflow_killed(self) -> str:
        return self._away(MLFLOW, 0)

    def _do_s3_killed(self) -> str:
        return self._away(S3, _S3_AWAY_S)

    def _do_node(self) -> str:
        self._bench.lose(self._node)
        return "SIGKILL of the second node, with two of four ranks"

    def _do_grow(self) -> str:
        self._bench.add_node(cpus=1)
        return "a node of one CPU joins"

    def _do_grow_again(self) -> str:
        self._spare = self._bench.add_node(cpus=1)
        return "another node of one CPU joins"

    def _do_worker(self) -> str:
        self._bench.workers()[-1].send_signal(signal.SIGKILL)
        return "SIGKILL of a rank"

    def _do_notice(self) -> str:
        leaves = self._spare or self._node
        if self._spare:
            self._bench.add_node(cpus=1)
        self._bench.give_notice(leaves, _GRACE_S)
        given_s = time.monotonic()
        self._command.until(lambda: "is being taken away: the ranks save and leave" in self._command.output, _GRACE_S)
        time.sleep(max(0.0, given_s + _GRACE_S - time.monotonic()))
        self._bench.lose(leaves)
        return f"a node is taken away {_GRACE_S:.0f} s after its notice{', another joins' if self._spare else ''}"

    def _do_driver(self) -> str:
        self._command.process.kill()
        self._command.process.wait()
        self._command = self._start()
        return "SIGKILL of the command, and the same command again"
