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

from pipeline.common.cli import console
from preprocessing.shard.work import StageTimes

log = logging.getLogger(__name__)
_REPORT_EVERY_S = 2.0  # of a worker
_LOG_EVERY_S = 30.0  # where there is no terminal


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    """(videos, pairs) of the shards being built. Absolute numbers, so that a repeated task overwrites its first try."""

    def __init__(self) -> None:
        self._shards: dict[str, tuple[int, int]] = {}

    def report(self, shard: str, videos: int, pairs: int) -> None:
        self._shards[shard] = (videos, pairs)

    def finished(self, shard: str) -> None:
        self._shards.pop(shard, None)

    def totals(self) -> tuple[int, int]:
        return sum(v for v, _ in self._shards.values()), sum(p for _, p in self._shards.values())


def make_board() -> Any:
    """The actor of one run."""
    return _Board.remote()


class Reporter:
    """The worker's side: call it after every video. It never waits for the board, and a lost board does no harm."""

    def __init__(self, board: Any, shard: str, times: StageTimes) -> None:
        self._board, self._shard, self._times = board, shard, times
        self._videos, self._last_s = 0, 0.0

    def __call__(self, _source: object) -> None:
        self._videos += 1
        now_s = time.monotonic()
        if self._board is not None and now_s - self._last_s >= _REPORT_EVERY_S:
            self._last_s = now_s
            with contextlib.suppress(ray.exceptions.RayError):
                self._board.report.remote(self._shard, self._videos, self._times.pairs)


class ProgressView:
    """The driver's side: a bar on a terminal, a line every half minute in a log."""

    def __init__(self, board: Any, num_shards: int, num_videos: int) -> None:
        self._board, self._num_shards = board, num_shards
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
        """(clips a second, pairs a second) since the start."""
        seconds = max(1e-6, time.monotonic() - self._start_s)
        return videos / seconds, pairs / seconds

    def refresh(self) -> None:
        """Read the board and draw."""
        videos = pairs = 0
        with contextlib.suppress(ray.exceptions.RayError):  # its node may be down; finished shards are counted here
            videos, pairs = ray.get(self._board.totals.remote(), timeout=2)
        videos, pairs = min(self._num_videos, self._videos + videos), self._pairs + pairs
        clips_per_s, pairs_per_s = self.rates(videos, pairs)
        note = (
            f"{self._shards}/{self._num_shards} shards, {clips_per_s:.2f} clips/s, {pairs_per_s:.1f} pairs/s,"
            f" {self.rejected} rejected"
        )
        self._progress.update(self._bar, completed=videos, note=note)
        now_s = time.monotonic()
        if not console.is_terminal and now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            left_s = (self._num_videos - videos) / clips_per_s if clips_per_s else float("inf")
            log.info("%d of %d videos, %s, %.0f s left", videos, self._num_videos, note, left_s)
