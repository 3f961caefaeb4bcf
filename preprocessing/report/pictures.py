"""Small pictures of stored samples: film strips of RGB and differences, and flow in the colours of the Middlebury
wheel.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Sequence

import av
import cv2
import numpy as np

from pipeline.common.media import check_picture, open_stored
from pipeline.dataset.sample import DIFF_ZERO, dequantise_flow, extension
from pipeline.dataset.shards import split_members
from pipeline.storage import Storage
from preprocessing.media.luma import luma
from preprocessing.report.survey import Pick

NUM_MOMENTS = 4
DIFF_GAIN = 2  # differences of neighbouring frames are faint
# Hues of the wheel from red over yellow, green, cyan, blue and magenta back to red (Baker et al., IJCV 2011, section
# on visualisation): more steps where the eye tells more hues apart.
_WHEEL = (
    (15, (255, 0, 0), (255, 255, 0)),
    (6, (255, 255, 0), (0, 255, 0)),
    (4, (0, 255, 0), (0, 255, 255)),
    (11, (0, 255, 255), (0, 0, 255)),
    (13, (0, 0, 255), (255, 0, 255)),
    (6, (255, 0, 255), (255, 0, 0)),
)
_GAP_PX = 2
_BEYOND = 0.75  # brightness of vectors longer than the maximum


def flow_wheel() -> np.ndarray:
    """The 55 hues of the wheel, (55, 3) float32 RGB in 0..255; the first is red."""
    parts = []
    for steps, start, end in _WHEEL:
        share = np.arange(steps, dtype=np.float32)[:, None] / steps
        parts.append(np.array(start, np.float32) + (np.array(end, np.float32) - np.array(start, np.float32)) * share)
    return np.floor(np.concatenate(parts))


def flow_colours(flow_px: np.ndarray, max_px: float) -> np.ndarray:
    """Colours of flow vectors: direction is hue (right is red), length is saturation, no motion is white.

    Args:
        flow_px: (..., 2, H, W) float, u (to the right) then v (down), in pixels.
        max_px: length of a vector with a full colour; longer ones are darker.

    Returns:
        (..., H, W, 3) uint8 RGB.

    Source: Baker, Scharstein, Lewis, Roth, Black and Szeliski, "A Database and Evaluation Methodology for Optical
    Flow", IJCV 92 (2011): the Middlebury colour code.
    """
    if max_px <= 0:
        raise ValueError(f"max_px = {max_px}: must be positive")
    u, v = np.moveaxis(np.asarray(flow_px, np.float32), -3, 0) / np.float32(max_px)
    wheel = flow_wheel() / 255
    length = np.hypot(u, v)[..., None]
    turn = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)  # 0..54 around the circle
    low = np.floor(turn).astype(np.intp)
    share = (turn - low)[..., None]
    hue = (1 - share) * wheel[low] + share * wheel[(low + 1) % len(wheel)]
    colour = np.where(length <= 1, 1 - length * (1 - hue), hue * _BEYOND)
    return np.floor(255 * colour).astype(np.uint8)


def wheel_legend(size_px: int = 120) -> np.ndarray:
    """The wheel as a disc: each place has the colour of the vector from the centre to it; (size, size, 3) uint8,
    white outside.
    """
    axis = np.linspace(-1, 1, size_px, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    colours = flow_colours(np.stack([u, v]), 1.0)
    colours[np.hypot(u, v) > 1] = 255
    return colours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strips:
    """Pictures of one sample at a few moments, side by side. RGB and difference are JPEG; flow is kept as codes until
    its scale is known.
    """

    pick: Pick
    moments_s: tuple[float, ...]
    jpegs: dict[str, bytes]  # rgb and, where it is stored, diff
    flow_codes: np.ndarray | None  # (moments, 2 h, w) uint8

    def flow_jpeg(self, bound_px: float, max_px: float) -> bytes:
        """The flow strip in colours."""
        if self.flow_codes is None:
            raise ValueError("no flow is stored")
        return jpeg(
            _side_by_side(flow_colours(dequantise_flow(_at_rest(self.flow_codes), bound_px), max_px)), exact_colour=True
        )

    def flow_lengths_px(self, bound_px: float) -> np.ndarray:
        """Lengths of the shown flow vectors, in pixels of the stored video."""
        if self.flow_codes is None:
            return np.zeros(0, np.float32)
        flow = dequantise_flow(_at_rest(self.flow_codes), bound_px)
        return np.hypot(flow[:, 0], flow[:, 1]).ravel()


def _at_rest(codes: np.ndarray) -> np.ndarray:
    # No motion is 127.5, which has the code 128: in colour, the half step would tint everything that does not move.
    return np.where(codes == 128, np.float32(127.5), codes)


def read_strips(storage: Storage, pick: Pick, modalities: Sequence[str], thumb_px: int) -> Strips:
    """Fetch one sample (one ranged GET) and decode a few of its frames.

    Args:
        thumb_px: longest side of one picture.

    Raises:
        ValueError, av.FFmpegError: its bytes are damaged.
        WrongPictureSize: its pictures are not of its record's size.
        StorageError: reading failed.
    """
    sample = pick.sample
    members = split_members(sample, storage.read_range(pick.tar, sample.offset, sample.size))
    # In the middle of equal parts, and never the last frame: flow and difference have one frame fewer.
    last = max(0, sample.num_frames - 2)
    moments = NUM_MOMENTS if sample.num_frames > 1 else 1  # a picture has one
    indexes = [min(int((i + 0.5) * (sample.num_frames - 1) / NUM_MOMENTS), last) for i in range(moments)]
    scale = min(1.0, thumb_px / max(sample.width, sample.height))
    size = max(2, round(sample.width * scale)), max(2, round(sample.height * scale))
    jpegs = {}
    for modality in ("rgb", "diff"):
        if modality in modalities:
            frames = [
                _shrink(frame.to_ndarray(format="rgb24"), size)
                for frame in _frames(members[extension(modality)], indexes, sample.width, sample.height)
            ]
            pictures = np.stack(frames)
            if modality == "diff":
                pictures = np.clip((pictures.astype(np.int16) - DIFF_ZERO) * DIFF_GAIN + DIFF_ZERO, 0, 255).astype(
                    np.uint8
                )
            jpegs[modality] = jpeg(_side_by_side(pictures))
    codes = None
    if "flow" in modalities:
        flow = _frames(members[extension("flow")], indexes, sample.width, 2 * sample.height)
        planes = [luma(frame) for frame in flow]
        codes = np.stack([np.concatenate([_shrink(half, size) for half in np.split(plane, 2)]) for plane in planes])
    return Strips(pick=pick, moments_s=tuple(i / sample.fps for i in indexes), jpegs=jpegs, flow_codes=codes)


def _frames(video: bytes, indexes: Sequence[int], width: int, height: int) -> Iterator[av.VideoFrame]:
    """Frames by ascending index; each is reached from the keyframe before it."""
    with open_stored(video, width, height) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        if not stream.average_rate or not stream.time_base:
            raise ValueError("a stored video has no frame rate")
        for index in indexes:
            ticks = round(index / (stream.average_rate * stream.time_base))
            container.seek(ticks, stream=stream)
            found = next(
                (frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= ticks), None
            )
            if found is None:
                raise ValueError(f"a stored video has no frame {index}")
            check_picture(found, width, height)
            yield found


def _shrink(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    count, height, width, _ = pictures.shape
    strip = np.full((height, count * (width + _GAP_PX) - _GAP_PX, 3), 128, np.uint8)
    for i, picture in enumerate(pictures):
        strip[:, i * (width + _GAP_PX) : i * (width + _GAP_PX) + width] = picture
    return strip


def jpeg(rgb: np.ndarray, *, exact_colour: bool = False) -> bytes:
    """A picture as JPEG; ``exact_colour`` keeps the resolution of colour, which flow is drawn in."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 85 if exact_colour else 78]
    if exact_colour:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"a picture of shape {rgb.shape} could not be encoded")
    return data.tobytes()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as the address of an inline picture."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
