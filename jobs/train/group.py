"""One attempt on Ray Train, and the cluster that it runs on, as ``jobs.train.attempts`` sees them."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

import ray
import ray.train

from jobs.cluster.connect import is_private
from jobs.cluster.nodes import Node, ask_autoscaler, live_nodes
from jobs.cluster.occupancy import other_users
from jobs.cluster.storage import empty_file_system
from jobs.train.attempts import Ended
from jobs.train.control import Progress
from jobs.train.process_group import NodeTorchConfig
from jobs.train.ranks import Need
from jobs.train.trainer import Trainer
from jobs.train.worker import WorkerTask, train_worker
from pipeline.training.ask import Ask
from pipeline.training.loop import Outcome
from pipeline.training.watchdog import collective_limit_s

log = logging.getLogger("jobs.train")
_ANSWER_S = 10.0


class RayCluster:
    """The connected cluster."""

    def __init__(self) -> None:
        self.fixed = is_private()
        self._asked = False
        self._nodes: Sequence[Node] = ()

    def nodes(self) -> Sequence[Node]:
        """Those that are alive, as far as Ray's control service answers."""
        try:
            self._nodes = live_nodes()
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            log.debug("Ray does not say which nodes there are: %s", error)
        return self._nodes

    def users(self) -> str:
        """Other commands that use it."""
        return other_users()

    def ask_autoscaler(self, need: Need) -> None:
        """Have nodes started for the most ranks, where that is possible."""
        ask_autoscaler([need.resources] * need.most)
        self._asked = True

    def take_back(self) -> None:
        """Ask for no nodes any more."""
        if self._asked:
            ask_autoscaler([])

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(seconds, 0.0))


class RayGroup:
    """The ranks of one attempt, started by ``TorchTrainer.fit`` in a thread of its own.

    Args:
        task: of every rank.
        need: what a rank takes.
        ranks: how many there are.
        work: what each of them does; None: trains.
    """

    def __init__(
        self, task: WorkerTask, need: Need, ranks: int, work: Callable[[WorkerTask], Outcome] | None = None
    ) -> None:
        self._control, self._progress, self._ended = task.control, Progress(), Ended()
        trainer = _trainer(task, need, ranks, work or train_worker)
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name="fit", daemon=True)
        self._thread.start()

    def _fit(self, trainer: ray.train.torch.TorchTrainer) -> None:
        try:
            outcome: Outcome = trainer.fit().return_value  # type: ignore[assignment]
            self._ended = Ended(left=outcome.left, metrics=outcome.metrics, checkpoint=outcome.checkpoint)
        except BaseException as error:
            self._ended = Ended(error=error)

    def wait(self, seconds: float) -> Ended | None:
        """Wait so long; how it has ended, if it has."""
        self._thread.join(seconds)
        return None if self._thread.is_alive() else self._ended

    def progress(self) -> Progress:
        """How far the ranks are, or were when that was last to be learned."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            self._progress = cast(Progress, ray.get(self._control.progress.remote(), timeout=_ANSWER_S))
        return self._progress

    def wish(self, ask: Ask) -> None:
        """Tell the ranks."""
        self._control.wish.remote(ask)

    def kill(self) -> None:
        """End all processes of this command on the cluster."""
        ray.shutdown()


def _trainer(task: WorkerTask, need: Need, ranks: int, work: Callable[[WorkerTask], Outcome]) -> Trainer:
    config = task.facts.config
    return Trainer(
        functools.partial(work, task),  # pickled as it is; a train_loop_config would have to be a dict
        # A lost rank must fail the step within minutes: what hangs longer than any sane step is an error.
        torch_config=NodeTorchConfig(
            backend="nccl" if task.gpu else "gloo",
            timeout_s=collective_limit_s(config.run.step_timeout_s, config.run.compile),
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=ranks,
            use_gpu=task.gpu,
            resources_per_worker=need.resources,
            placement_strategy="STRICT_SPREAD" if need.spread else "PACK",
        ),
        run_config=ray.train.RunConfig(
            name=config.run.run_id,
            storage_filesystem=empty_file_system(),
            storage_path="",
            # Whether there is another attempt is decided by jobs.train.attempts.
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            # Ray Train's own lines say every state of its controller, and every error as a traceback of many lines;
            # ours say what a person wants to know. Its log files have them all.
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            # One rank must not take all cores of a node for its OpenMP threads: the ranks share them. All other
            # variables come with the connection (jobs.cluster.environment).
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(config.run.cpus_per_worker)))}},
        ),
    )
