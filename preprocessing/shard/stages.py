"""Sources to samples, with decoding, flow and encoding side by side.

    thread 1   fetch and decode -> blocks of frames (a bounded queue: memory does not grow with a clip's length)
    this one   flow, difference      -> blocks of codes
    thread 2   encode, read back     -> finished samples, one after another

While the flow of one block is computed the next is decoded and the last is encoded, so that a GPU does not wait; on one
core the three take turns and reading from object storage is hidden. What comes out does not depend on the timing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.common.read_ahead import read_ahead
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import dequantise_flow, quantise_diff, quantise_flow
from pipeline.dataset.shards import SampleRecord
from pipeline.errors import RejectedSource
from preprocessing.annotations import Source
from preprocessing.flow.base import FlowEngine, to_gray
from preprocessing.flow.factory import flow_engine
from preprocessing.media.decode import VideoReader
from preprocessing.shard.clip import ClipWriter
from preprocessing.shard.work import StageTimes, named
from preprocessing.sources import SourceStore

_QUEUED_BLOCKS = 3  # of decoded frames, and as many of codes: enough to bridge a keyframe or a slow read
_MAX_BLOCK_BYTES = 48 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A finished sample: its record without a place in a tar, and its members by webdataset extension, as files or
    bytes.
    """

    record: SampleRecord
    members: Mapping[str, Path | bytes]


@dataclasses.dataclass(frozen=True)
class _Begin:
    source: Source
    fps: float


@dataclasses.dataclass(frozen=True)
class _End:
    decoded_frames: int
    source_size: tuple[int, int]


_Event = _Begin | np.ndarray | _End | tuple[Source, RejectedSource]
_THREAD = threading.local()


def engine_for(stored: StoredConfig) -> FlowEngine:
    """This thread's engine; made once, because a GPU's takes seconds to set up."""
    asked = (stored.flow_engine, stored.flow_mode)
    if getattr(_THREAD, "asked", None) != asked:
        _THREAD.engine, _THREAD.asked = flow_engine(*asked), asked
    return _THREAD.engine


def make_samples(
    sources: Sequence[Source],
    store: SourceStore,
    classes: Sequence[str],
    stored: StoredConfig,
    folder: Path,
    *,
    take: Callable[[Source, Sample | RejectedSource], None],
    times: StageTimes,
) -> None:
    """Turn sources into samples, in order.

    Args:
        folder: existing local folder for the members' files.
        take: gets every source once, with its sample or the reason it has none; called in order, in another thread. The
            sample's files are deleted when it returns.
        times: what the stages cost is added to it, pairs included, while they run.

    Raises:
        StorageError: sources could not be read, or the local disk is full.
        ReciprocalError: something behind the decoder broke; names the source.
    """
    engine = engine_for(stored) if "flow" in stored.modalities else None
    encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
    pending: deque[Future[None]] = deque()

    def then(work: Callable[[], None]) -> None:
        pending.append(encoder.submit(work))
        while len(pending) > _QUEUED_BLOCKS:
            pending.popleft().result()

    clip: ClipWriter | None = None
    try:
        with contextlib.closing(
            read_ahead(_decoded(sources, store, stored, engine, times), _QUEUED_BLOCKS, "decode")
        ) as events:
            for event in events:
                if isinstance(event, _Begin):
                    clip = ClipWriter(event.source, event.fps, classes, stored, folder, times)
                    pairs = _Pairs(engine, stored, times)
                elif isinstance(event, np.ndarray):
                    assert clip is not None
                    with named(clip.source):
                        then(_call(clip.write, event, *pairs.next(event)))
                elif isinstance(event, _End):
                    assert clip is not None
                    then(_call(_finish, clip, event, pairs, take))
                    clip = None
                else:
                    source, reject = event
                    then(_call(_reject, clip, source, reject, take))
                    clip = None
        while pending:
            pending.popleft().result()
    finally:
        # What is queued after a fault is of no use; what runs must end before the folder goes.
        encoder.shutdown(wait=True, cancel_futures=True)
        if clip is not None:
            clip.abandon()


class _Pairs:
    """Flow and differences of one clip, block after block; keeps the last frame of a block for the first pair of
    the next.
    """

    def __init__(self, engine: FlowEngine | None, stored: StoredConfig, times: StageTimes) -> None:
        self._engine, self._stored, self._times = engine, stored, times
        self._last_rgb: np.ndarray | None = None
        self._last_gray: np.ndarray | None = None
        self.saturation: list[
            float
        ] = []  # per pair, so that a clip's mean does not depend on how it was cut into blocks
        self.error_px: list[float] = []
        self.mean_px: list[float] = []

    def next(self, frames_rgb_THWC: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(flow codes (N, 2 H, W), difference codes (N, H, W, 3)) of the pairs that end in these frames; None where
        not stored.
        """
        flow = diff = None
        if self._engine is not None:
            with self._times.measure("flow_s"):
                gray = to_gray(frames_rgb_THWC)
                window = gray if self._last_gray is None else np.concatenate([self._last_gray[None], gray])
                self._last_gray = gray[-1]
                if len(window) > 1:
                    flow = self._codes(self._engine.flow(window))
        if "diff" in self._stored.modalities:
            with self._times.measure("encode_s"):
                window = (
                    frames_rgb_THWC
                    if self._last_rgb is None
                    else np.concatenate([self._last_rgb[None], frames_rgb_THWC])
                )
                self._last_rgb = frames_rgb_THWC[-1]
                diff = quantise_diff(window) if len(window) > 1 else None
        return flow, diff

    def _codes(self, flow_px: np.ndarray) -> np.ndarray:
        bound = self._stored.flow_bound
        codes = quantise_flow(flow_px, bound)
        for pair, code in zip(flow_px, codes, strict=True):
            distance = np.subtract(dequantise_flow(code, bound), pair)
            self.error_px.append(float(np.abs(distance, out=distance).mean()))
            self.saturation.append(np.count_nonzero(np.abs(pair, out=distance) > bound) / pair.size)
            squares = np.square(pair, out=distance)
            self.mean_px.append(float(np.sqrt(np.add(squares[0], squares[1], out=squares[0]), out=squares[0]).mean()))
        self._times.pairs += len(flow_px)
        return codes


def _finish(
    clip: ClipWriter, end: _End, pairs: _Pairs, take: Callable[[Source, Sample | RejectedSource], None]
) -> None:
    try:
        record, members = clip.finish()
        # Rounded, because the last bits of a mean depend on the machine's vector width, and the record's bytes should
        # not.
        if pairs.mean_px:
            quality = {
                name: round(float(np.mean(getattr(pairs, name))), digits)
                for name, digits in (("saturation", 6), ("error_px", 5), ("mean_px", 4))
            }
            record = dataclasses.replace(record, **{f"flow_{name}": value for name, value in quality.items()})
        width, height = end.source_size
        record = dataclasses.replace(
            record, decoded_frames=end.decoded_frames, source_width=width, source_height=height
        )
        clip.times.clips += 1
        with named(clip.source):
            take(clip.source, Sample(record=record, members=members))
    finally:
        clip.abandon()


def _reject(
    clip: ClipWriter | None,
    source: Source,
    reject: RejectedSource,
    take: Callable[[Source, Sample | RejectedSource], None],
) -> None:
    if clip is not None:
        clip.abandon()
    take(source, reject)


def _decoded(
    sources: Sequence[Source], store: SourceStore, stored: StoredConfig, engine: FlowEngine | None, times: StageTimes
) -> Generator[_Event]:
    for source in sources:
        try:
            yield from _decoded_one(source, store, stored, engine, times)
        except RejectedSource as error:
            yield source, error


def _decoded_one(
    source: Source, store: SourceStore, stored: StoredConfig, engine: FlowEngine | None, times: StageTimes
) -> Iterator[_Event]:
    with contextlib.ExitStack() as stack:
        with times.measure("fetch_s"):
            path = stack.enter_context(store.local(source.path))
        with times.measure("decode_s"):
            video = stack.enter_context(
                VideoReader(
                    path,
                    short_side=stored.short_side,
                    fps=stored.fps,
                    start_s=source.start_s,
                    end_s=source.end_s,
                    max_frames=stored.max_frames,
                )
            )
        yield _Begin(source, video.fps)
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
        yield _End(video.decoded_frames, video.source_size)


def _call(function: Callable[..., None], *args: object) -> Callable[[], None]:
    return lambda: function(*args)
