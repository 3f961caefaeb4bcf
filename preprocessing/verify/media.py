"""Whether the videos of one stored sample decode to what its record says, frame for frame, and show the same moments.

Members are read through a window on the tar, frame by frame: a two-hour sample takes no more memory than a short one.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipeline.dataset.sample import DIFF_ZERO, dequantise_flow, extension
from pipeline.dataset.shards import Member, SampleRecord
from preprocessing.media.luma import luma

_MAX_JITTER = Fraction(1, 100)  # of a frame's time
_THUMB_PX = 32  # short side on which contents are compared: coding noise averages out, motion does not
_THUMB_FRAMES = 256  # contents are compared over the first of them; counts, sizes and times over all
_MIN_MOTION = 1.0  # root mean square of the brightness change, in levels; below it coding noise decides
_MIN_EXCESS = 0.2  # of the correlation at another frame over that at the own one
_MIN_CORRELATION = 0.1
_COARSE_CRF = 30  # at worse qualities coding may remove a difference altogether
_FLOW_STEP = 4  # every 4th row and column is enough for a mean
_MEAN_SLACK = (0.5, 0.5)  # pixels, and share of the record's: quantisation and coding noise stay far inside
_LUMA_ZERO = 16 + 219 * DIFF_ZERO / 255  # of a difference of 0, as VideoWriter stores it (BT.601, limited range)

Report = Callable[[str, str, str], None]
"""Called with (member, kind, detail) for every fault."""


class Window(io.RawIOBase):
    """Read-only view of ``size`` bytes of a file from ``offset`` on."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = path.open("rb"), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """What decoding a member gave: times in ticks of ``time_base`` s, sizes (width, height), small brightness
    pictures.
    """

    ticks: np.ndarray  # (T,) int64
    time_base: Fraction
    rate: Fraction
    sizes: frozenset[tuple[int, int]]
    thumbs: np.ndarray  # (min(T, 256), h, w) float32, luma levels as stored; none of flow
    mean_length_px: float | None = None  # of flow

    def time_s(self, index: int) -> Fraction:
        """Time stamp of a frame, exact."""
        return int(self.ticks[index]) * self.time_base


def decode_member(path: Path, member: Member, flow_bound_px: float | None = None) -> Video:
    """Decode every frame of a member of a local tar, on one thread.

    Args:
        flow_bound_px: of a flow member; None for the others.

    Raises:
        av.FFmpegError: FFmpeg cannot read it.
        ValueError: no video stream, no frame, or a frame without a time stamp.
    """
    ticks: list[int] = []
    sizes: set[tuple[int, int]] = set()
    thumbs: list[np.ndarray] = []
    lengths: list[float] = []
    with Window(path, member.offset, member.size) as window, av.open(window, "r") as container:
        if not container.streams.video:
            raise ValueError("there is no video stream")
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            if frame.pts is None:
                raise ValueError(f"frame {len(ticks)} has no time stamp")
            ticks.append(frame.pts)
            sizes.add((frame.width, frame.height))
            if flow_bound_px is not None:
                lengths.append(_mean_length_px(luma(frame), flow_bound_px))
            elif len(thumbs) < _THUMB_FRAMES and len(sizes) == 1:
                thumbs.append(_thumb(frame))
        rate, time_base = stream.average_rate or Fraction(0), stream.time_base or Fraction(0)
    if not ticks:
        raise ValueError("it holds no frame")
    pictures = np.stack(thumbs) if thumbs else np.zeros((0, 0, 0), np.float32)
    mean = sum(lengths) / len(lengths) if lengths else None
    return Video(
        ticks=np.array(ticks, np.int64),
        time_base=time_base,
        rate=rate,
        sizes=frozenset(sizes),
        thumbs=pictures,
        mean_length_px=mean,
    )


def _mean_length_px(codes: np.ndarray, bound_px: float) -> float:
    rows = len(codes) // 2
    u, v = dequantise_flow(
        np.concatenate([half[::_FLOW_STEP, ::_FLOW_STEP] for half in (codes[:rows], codes[rows : 2 * rows])]), bound_px
    )
    return float(np.mean(np.hypot(u, v)))


def _thumb(frame: av.VideoFrame) -> np.ndarray:
    plane = luma(frame)
    shrink = max(1, min(plane.shape) // _THUMB_PX)
    return cv2.resize(plane, (plane.shape[1] // shrink, plane.shape[0] // shrink), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )


def check_videos(
    path: Path,
    sample: SampleRecord,
    modalities: Sequence[str],
    parameters: Mapping[str, Any],
    intact: Mapping[str, Member],
    report: Report,
) -> int:
    """Decode a sample's videos and compare them with its record and with each other; every fault is reported.

    Args:
        path: the shard's tar, local.
        parameters: of preprocessing, from the manifest: the bound of flow and the quality are used.
        intact: members whose bytes are the record's, by webdataset extension; only these are decoded.

    Returns:
        Number of frames decoded.
    """
    videos: dict[str, Video] = {}
    flow_bound_px, crf = float(parameters.get("flow_bound", 20.0)), int(parameters.get("crf", 20))
    for modality in modalities:
        name = extension(modality)
        if name not in intact:
            continue
        try:
            video = decode_member(path, intact[name], flow_bound_px if modality == "flow" else None)
        except (av.FFmpegError, ValueError) as error:
            report(name, "undecodable", f"{type(error).__name__}: {error}")
            continue
        videos[modality] = video
        num_frames = sample.num_frames - (modality != "rgb")
        size = (sample.width, sample.height * (2 if modality == "flow" else 1))  # u above v
        if len(video.ticks) != num_frames:
            report(name, "num_frames", f"expected {num_frames} frames, found {len(video.ticks)}")
        if video.sizes != {size}:
            report(
                name,
                "size",
                f"expected {size[0]}x{size[1]}, found {', '.join(f'{w}x{h}' for w, h in sorted(video.sizes))}",
            )
        check_clock(video, sample.fps, lambda detail, name=name: report(name, "clock", detail))
    rgb = videos.get("rgb")
    for modality, video in videos.items():
        if rgb is None or modality == "rgb":
            continue
        shared = min(len(rgb.ticks), len(video.ticks))
        apart = np.flatnonzero(_scaled(rgb, video.time_base)[:shared] != _scaled(video, rgb.time_base)[:shared])
        if apart.size:
            i = int(apart[0])
            report(
                extension(modality),
                "misaligned",
                f"frame {i} is at {float(video.time_s(i)):.4f} s, expected that of rgb, {float(rgb.time_s(i)):.4f} s",
            )
    if rgb is not None and "diff" in videos:
        check_difference(
            rgb, videos["diff"], crf <= _COARSE_CRF, lambda detail: report(extension("diff"), "content", detail)
        )
    if "flow" in videos:
        check_flow(videos["flow"], sample, lambda detail: report(extension("flow"), "content", detail))
    return sum(len(v.ticks) for v in videos.values())


def _scaled(video: Video, other_base: Fraction) -> np.ndarray:
    """Ticks as integers of a unit that both videos share: a / b == c / d exactly where a d == c b."""
    return video.ticks * (video.time_base.numerator * other_base.denominator)


def check_clock(video: Video, fps: float, report: Callable[[str], None]) -> None:
    """The first frame is at 0, and frame i at i / ``fps``, within a hundredth of a frame."""
    if abs(float(video.rate) - fps) > 1e-4 * fps:
        report(f"expected {fps:g} frames/s, found {float(video.rate):g}")
    if video.ticks[0] != 0:
        report(f"expected to start at 0 s, starts at {float(video.time_s(0)):.4f} s")
    found = (video.ticks - video.ticks[0]).astype(np.float64) * float(video.time_base) * fps
    off = np.abs(found - np.arange(len(found)))
    if off.max() > float(_MAX_JITTER):
        i = int(off.argmax())
        report(f"the rate is not constant: frame {i} is {found[i]:.2f} frames after the first")


def check_difference(rgb: Video, diff: Video, fine: bool, report: Callable[[str], None]) -> None:
    """A difference picture i shows rgb[i + 1] - rgb[i], not another moment, and not another clip.

    Both are lossy, so the test is a correlation of brightness changes on small pictures. Over some 60 real clips it is
    0.55 to 1 at the right moment at the default quality, and larger there than one frame away (by 0.1 at least). At the
    worst quality it is anything at the right moment, but never more than 0.06 larger elsewhere. Clips that hardly move
    are left out: nothing tells their moments apart.

    Args:
        fine: the quality is good enough to expect a correlation at all.
    """
    if rgb.thumbs.shape[1:] != diff.thumbs.shape[1:] or len(rgb.thumbs) < 2:
        return  # another fault, reported already
    change = np.diff(rgb.thumbs, axis=0)
    stored = diff.thumbs[: len(change)] - np.float32(_LUMA_ZERO)
    change = change[: len(stored)]
    if np.sqrt(np.mean(np.square(change))) < _MIN_MOTION:
        return
    here = _correlation(stored, change)
    elsewhere = (
        {"after": _correlation(stored[:-1], change[1:]), "before": _correlation(stored[1:], change[:-1])}
        if len(change) > 2
        else {}
    )
    best = max(elsewhere, key=lambda side: elsewhere[side], default="")
    if best and elsewhere[best] > here + _MIN_EXCESS:
        report(
            f"shows the change one frame {best} its own: correlation {elsewhere[best]:.2f} there, {here:.2f} at its own"
            " frame"
        )
    elif fine and here < _MIN_CORRELATION:
        report(
            f"does not show the change between the rgb frames: correlation {here:.2f}, expected above"
            f" {_MIN_CORRELATION}"
        )


def check_flow(flow: Video, sample: SampleRecord, report: Callable[[str], None]) -> None:
    """The stored vectors are about as long as those that were computed, where the record says how long those were."""
    found, expected = flow.mean_length_px, sample.flow_mean_px
    if found is None or expected is None:
        return
    slack_px = _MEAN_SLACK[0] + _MEAN_SLACK[1] * expected
    # What lies beyond the bound is stored shorter: then only too long is wrong.
    if found > expected + slack_px or (found < expected - slack_px and not sample.flow_saturation):
        report(f"mean length of the flow: expected {expected:.2f} px, found {found:.2f} px")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.sqrt(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64)))
    return float(np.sum(a * b, dtype=np.float64)) / scale if scale else 0.0
