"""Checks of one stored sample's videos: they decode to what the record says, and show the same moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.common.media import WrongPictureSize
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import DIFF_ZERO, extension
from pipeline.dataset.shards import Member, SampleRecord
from preprocessing.verify.video import Video, decode_member

_MAX_JITTER = Fraction(1, 100)  # of a frame's time
_MIN_MOTION = 1.0  # root mean square of the brightness change, in levels; below it coding noise decides
_MIN_EXCESS = 0.2  # of the correlation at another frame over that at the own one
_MIN_CORRELATION = 0.1
_COARSE_CRF = 30  # at worse qualities coding may remove a difference altogether
_MEAN_SLACK = (0.5, 0.5)  # pixels, and share of the record's: quantisation and coding noise stay far inside
_LUMA_ZERO = 16 + 219 * DIFF_ZERO / 255  # of a difference of 0, as VideoWriter stores it (BT.601, limited range)

Report = Callable[[str, str, str], None]
"""Called with (member, kind, detail) for every fault."""


def check_videos(
    path: Path,
    sample: SampleRecord,
    modalities: Sequence[str],
    stored: StoredConfig,
    intact: Mapping[str, Member],
    report: Report,
) -> int:
    """Decode a sample's videos and compare them with its record and with each other; every fault is reported.

    Args:
        path: the shard's tar, local.
        stored: parameters of preprocessing: the bound of flow and the quality are used.
        intact: members whose bytes are the record's, by webdataset extension; only these are decoded.

    Returns:
        Number of frames decoded.
    """
    videos: dict[str, Video] = {}
    for modality in modalities:
        name = extension(modality)
        if name not in intact:
            continue
        size = (sample.width, sample.height * (2 if modality == "flow" else 1))  # u above v
        try:
            video = decode_member(path, intact[name], size, stored.flow_bound if modality == "flow" else None)
        except WrongPictureSize as error:
            report(name, "size", str(error))
            continue
        except IndexError:
            report(name, "undecodable", "there is no video stream")
            continue
        except (av.FFmpegError, ValueError) as error:
            report(name, "undecodable", f"{type(error).__name__}: {error}")
            continue
        videos[modality] = video
        num_frames = sample.num_frames - (modality != "rgb")
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
            rgb, videos["diff"], stored.crf <= _COARSE_CRF, lambda detail: report(extension("diff"), "content", detail)
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
    0.55 to 1 at the right moment at the default quality, and at least 0.1 higher there than one frame away. At the
    worst quality it can have any value at the right moment, but is never more than 0.06 higher elsewhere. Clips that
    hardly move are left out: their moments cannot be told apart.

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
    # Vectors beyond the bound are stored shorter: then only a mean that is too long is a fault.
    if found > expected + slack_px or (found < expected - slack_px and not sample.flow_saturation):
        report(f"mean length of the flow: expected {expected:.2f} px, found {found:.2f} px")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.sqrt(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64)))
    return float(np.sum(a * b, dtype=np.float64)) / scale if scale else 0.0
