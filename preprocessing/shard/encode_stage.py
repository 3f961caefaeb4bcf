"""The encode thread: tasks in order, finished samples handed out in the same order."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction

import numpy as np

from pipeline.errors import RejectedSource
from preprocessing.annotations import Source
from preprocessing.shard.clip import ClipWriter, Sample


@dataclasses.dataclass(frozen=True)
class ClipEnd:
    """What is known about a source once its last frame was decoded."""

    decoded_frames: int
    source_size: tuple[int, int]  # width, height
    pixel_aspect: Fraction  # width over height of a pixel
    length_announced: bool


@dataclasses.dataclass(frozen=True)
class _Finished:
    """A source that is done with, and its files, if any."""

    source: Source
    made: Sample | RejectedSource
    clip: ClipWriter | None


class EncodeStage:
    """Encodes in a thread of its own, one task after another, and hands out what is finished in the same order.

    As a context manager: at its end the thread has ended and all files are gone, whatever happened.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._tasks: deque[Future[_Finished | None]] = deque()
        self._open: list[ClipWriter] = []

    def __enter__(self) -> EncodeStage:
        return self

    def __exit__(self, *_: object) -> None:
        # After an error the queued tasks are of no use; the running one must end before its files are deleted.
        self._thread.shutdown(wait=True, cancel_futures=True)
        for clip in list(self._open):
            self._remove(clip)

    def open(self, clip: ClipWriter) -> ClipWriter:
        """Be responsible for removing a clip's files."""
        self._open.append(clip)
        return clip

    def write(self, clip: ClipWriter, frames_rgb_THWC: np.ndarray, flow_codes: np.ndarray | None) -> None:
        """Queue a block of a clip."""
        self._tasks.append(self._thread.submit(clip.write, frames_rgb_THWC, flow_codes))

    def finish(self, clip: ClipWriter, end: ClipEnd, flow_quality: dict[str, float]) -> None:
        """Queue the end of a clip; ``flow_quality`` is added to its record."""
        self._tasks.append(
            self._thread.submit(lambda: _Finished(clip.source, _finished(clip, end, flow_quality), clip))
        )

    def reject(self, clip: ClipWriter | None, source: Source, reject: RejectedSource) -> None:
        """Queue a reject, behind what was already written of its clip."""
        self._tasks.append(self._thread.submit(lambda: _Finished(source, reject, clip)))

    def take_finished(self, ahead: int) -> Iterator[tuple[Source, Sample | RejectedSource]]:
        """Yield what is finished; wait until at most ``ahead`` tasks are left. Raises what a task raised."""
        while self._tasks and (len(self._tasks) > ahead or self._tasks[0].done()):
            finished = self._tasks.popleft().result()
            if finished is None:
                continue
            if finished.clip is not None and isinstance(finished.made, RejectedSource):
                self._remove(finished.clip)
            yield finished.source, finished.made
            if finished.clip is not None:
                self._remove(finished.clip)

    def _remove(self, clip: ClipWriter) -> None:
        clip.remove()
        if clip in self._open:
            self._open.remove(clip)


def _finished(clip: ClipWriter, end: ClipEnd, flow_quality: dict[str, float]) -> Sample:
    """Close the clip's videos, read them back, and complete the record."""
    sample = clip.finish()
    width, height = end.source_size
    record = dataclasses.replace(
        sample.record,
        decoded_frames=end.decoded_frames,
        source_width=width,
        source_height=height,
        sar=f"{end.pixel_aspect.numerator}:{end.pixel_aspect.denominator}",
        length_announced=end.length_announced,
        **flow_quality,
    )
    clip.times.clips += 1
    return Sample(record=record, members=sample.members)
