"""Sources to samples: decoding, flow and encoding overlap.

    decode thread    fetch and decode                -> blocks of frames
    calling thread   flow                            -> blocks of flow codes
    encode thread    difference, encode, read back   -> finished samples, in order, yielded in the calling thread

The queues between them are bounded: memory does not grow with a clip's length, nor with a slow consumer. While the
flow of one block is computed, the next is decoded and the previous one encoded, so that a GPU does not wait; on one
core the three share the time and the latency of object storage is hidden. The result does not depend on timing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.common.read_ahead import read_ahead
from pipeline.config.preprocess import StoredConfig
from pipeline.errors import RejectedSource
from preprocessing.annotations import Source
from preprocessing.flow.base import FlowEngine
from preprocessing.flow.factory import flow_engine
from preprocessing.media.decode import VideoReader
from preprocessing.media.still import PictureReader
from preprocessing.shard.clip import ClipWriter, Sample
from preprocessing.shard.encode_stage import ClipEnd, EncodeStage
from preprocessing.shard.motion import FlowStage
from preprocessing.shard.plan import PlannedSource
from preprocessing.shard.work import StageTimes, named
from preprocessing.sources import SourceStore

_QUEUED_BLOCKS = 3  # of decoded frames, and as many of codes: enough to bridge a keyframe or a slow read
_MAX_BLOCK_BYTES = 48 << 20


@dataclasses.dataclass(frozen=True)
class _Begin:
    planned: PlannedSource
    fps: float


_Event = _Begin | np.ndarray | ClipEnd | tuple[Source, RejectedSource]
_THREAD = threading.local()


def engine_for(stored: StoredConfig) -> FlowEngine:
    """This thread's engine; made once, because a GPU engine takes seconds to set up."""
    asked = (stored.flow_engine, stored.flow_mode)
    if getattr(_THREAD, "asked", None) != asked:
        _THREAD.engine, _THREAD.asked = flow_engine(*asked), asked
    return _THREAD.engine


def make_samples(
    inputs: Sequence[PlannedSource],
    store: SourceStore,
    classes: Sequence[str],
    stored: StoredConfig,
    folder: Path,
    *,
    times: StageTimes,
) -> Generator[tuple[Source, Sample | RejectedSource]]:
    """Yield every source once, in order, with its sample or with the reason it has none.

    A sample's files exist until the next item is asked for, then they are deleted. Closing the generator early stops
    and joins both threads and deletes all files: consume it under ``contextlib.closing``, so that an error in the
    consumer does the same. Flow is computed in the thread that iterates.

    Args:
        folder: existing local folder for the members' files.
        times: the cost of each stage is added to it while they run, pairs included.

    Raises:
        StorageError: sources could not be read, or the local disk is full.
        ReciprocalError: something behind the decoder broke; names the source.
    """
    engine = engine_for(stored) if "flow" in stored.modalities else None
    clip: ClipWriter | None = None
    flow: FlowStage | None = None
    with (
        EncodeStage() as encoder,
        contextlib.closing(
            read_ahead(_decoded(inputs, store, stored, engine, times), _QUEUED_BLOCKS, "decode")
        ) as events,
    ):
        for event in events:
            if isinstance(event, _Begin):
                clip = encoder.open(ClipWriter(event.planned, event.fps, classes, stored, folder, times))
                flow = FlowStage(engine, stored.flow_bound, times) if engine else None
            elif isinstance(event, np.ndarray):
                assert clip is not None
                with named(clip.source):
                    flow_codes = flow.next(event) if flow else None
                encoder.write(clip, event, flow_codes)
            elif isinstance(event, ClipEnd):
                assert clip is not None
                encoder.finish(clip, event, flow.quality() if flow else {})
                clip = None
            else:
                encoder.reject(clip, *event)
                clip = None
            yield from encoder.take_finished(_QUEUED_BLOCKS)
        yield from encoder.take_finished(0)


def _decoded(
    inputs: Sequence[PlannedSource],
    store: SourceStore,
    stored: StoredConfig,
    engine: FlowEngine | None,
    times: StageTimes,
) -> Generator[_Event]:
    """Begin, blocks of frames and end of every source; a reject may take the place of any of them."""
    for planned in inputs:
        try:
            yield from _decoded_one(planned, store, stored, engine, times)
        except RejectedSource as error:
            yield planned.source, error


def _decoded_one(
    planned: PlannedSource, store: SourceStore, stored: StoredConfig, engine: FlowEngine | None, times: StageTimes
) -> Iterator[_Event]:
    source = planned.source
    with contextlib.ExitStack() as stack:
        with times.measure("fetch_s"):
            path = stack.enter_context(store.local(source.path))
        with times.measure("decode_s"):
            video = stack.enter_context(_reader(source, path, stored))
        yield _Begin(planned, video.fps)
        frames = iter(video)
        size = engine.block_frames if engine else 16
        while True:
            with times.measure("decode_s"):
                block = list(itertools.islice(frames, size))
                stacked = np.stack(block) if block else None
            if stacked is None:
                break
            size = max(2, min(size, _MAX_BLOCK_BYTES // stacked[0].nbytes))
            yield stacked
        assert video.source_size is not None
        yield ClipEnd(video.decoded_frames, video.source_size, video.pixel_aspect, video.length_announced)


def _reader(source: Source, path: Path, stored: StoredConfig) -> VideoReader | PictureReader:
    if source.picture:
        return PictureReader(path, short_side=stored.short_side, fps=stored.fps)
    return VideoReader(
        path,
        short_side=stored.short_side,
        fps=stored.fps,
        start_s=source.start_s,
        end_s=source.end_s,
        max_frames=stored.max_frames,
        square_pixels=stored.square_pixels,
    )
