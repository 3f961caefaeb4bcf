"""Progress of preprocessing: workers report to a small actor, the driver reads it and draws."""

from __future__ import annotations

import contextlib
import logging
import time
from types import TracebackType
from typing import Any

import ray
import ray.exceptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cluster.occupancy import free_resources, other_users
from pipeline.common.cli import console
from pipeline.common.words import counted
from preprocessing.shard.work import StageTimes

log = logging.getLogger(__name__)
_REPORT_EVERY_S = 2.0  # of a worker
_LOG_EVERY_S = 30.0  # where there is no terminal
_ASK_EVERY_S = 15.0  # who has the cluster


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    """(videos, pairs) of the shards being built. Absolute numbers, so that a repeated task overwrites its first try."""

    def __init__(self) -> None:
        self._shards: dict[str, tuple[int, int]] = {}

    def report(self, shard: str, videos: int, pairs: int) -> None:
        self._shards[shard] = (videos, pairs)

    def finished(self, shard: str) -> None:
        self._shards.pop(shard, None)

    def totals(self) -> tuple[int, int, int]:
        videos, pairs = zip(*self._shards.values(), strict=True) if self._shards else ((), ())
        return len(self._shards), sum(videos), sum(pairs)


def make_board() -> Any:
    """The actor of one run."""
    return _Board.remote()


class Reporter:
    """The worker's side: call it after every video. It never waits for the board, and a lost board does no harm."""

    def __init__(self, board: Any, shard: str, times: StageTimes) -> None:
        self._board, self._shard, self._times = board, shard, times
        self._videos, self._last_s = 0, time.monotonic()
        self._report()  # that work has begun: the first video may take minutes

    def __call__(self, _source: object) -> None:
        self._videos += 1
        if time.monotonic() - self._last_s >= _REPORT_EVERY_S:
            self._last_s = time.monotonic()
            self._report()

    def _report(self) -> None:
        if self._board is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                self._board.report.remote(self._shard, self._videos, self._times.pairs)


class ProgressView:
    """The driver's side: a bar on a terminal, a line every half minute in a log."""

    def __init__(self, board: Any, num_shards: int, num_videos: int, *, gpus: bool = False) -> None:
        self._board, self._num_shards, self._gpus = board, num_shards, gpus
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar = self._progress.add_task("videos", total=num_videos, note="")
        self._num_videos, self._start_s, self._logged_s = num_videos, time.monotonic(), time.monotonic()
        self._asked_s, self._wait = -_ASK_EVERY_S, ""
        self._shards = self._videos = self._pairs = self.rejected = 0

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def shard_done(self, path: str, videos: int, pairs: int, rejected: int) -> None:
        """Count a stored shard."""
        self._shards += 1
        self._videos += videos
        self._pairs += pairs
        self.rejected += rejected
        with contextlib.suppress(ray.exceptions.RayError):
            self._board.finished.remote(path)

    def rates(self, videos: float, pairs: float) -> tuple[float, float]:
        """(clips a second, pairs a second) since the first shard was begun."""
        seconds = max(1e-6, time.monotonic() - self._start_s)
        return videos / seconds, pairs / seconds

    def refresh(self) -> None:
        """Read the board and draw."""
        begun = videos = pairs = 0
        answered = False
        with contextlib.suppress(ray.exceptions.RayError):  # its node may be down; finished shards are counted here
            begun, videos, pairs = ray.get(self._board.totals.remote(), timeout=2)
            answered = True
        videos, pairs = min(self._num_videos, self._videos + videos), self._pairs + pairs
        waits = answered and not begun and self._shards < self._num_shards
        if waits and not videos:
            self._start_s = time.monotonic()  # waiting is no time of work
        clips_per_s, pairs_per_s = self.rates(videos, pairs)
        note = (
            f"{self._shards}/{self._num_shards} shards, {clips_per_s:.2f} clips/s, {pairs_per_s:.1f} pairs/s,"
            f" {self.rejected} rejected"
        )
        if waits:
            note = self._waiting() if not videos else f"{note}; {self._waiting()}"
        self._progress.update(self._bar, completed=videos, note=note)
        now_s = time.monotonic()
        if not console.is_terminal and now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            left = f", {(self._num_videos - videos) / clips_per_s:.0f} s left" if videos and not waits else ""
            log.info("%d of %d videos, %s%s", videos, self._num_videos, note, left)

    def _waiting(self) -> str:
        """What the shards wait for, and who has it; asked for now and then, because the answer costs seconds."""
        now_s = time.monotonic()
        if now_s - self._asked_s >= _ASK_EVERY_S:
            self._asked_s = now_s
            with contextlib.suppress(ray.exceptions.RayError):
                users = other_users()
                self._wait = free_resources(gpus=self._gpus) + (f"; in use by {users}" if users else "")
        waiting = counted(self._num_shards - self._shards, "shard waits", "shards wait")
        return f"{waiting} for a free {'GPU' if self._gpus else 'CPU'}: {self._wait}"
