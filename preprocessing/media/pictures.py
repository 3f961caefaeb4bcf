"""The pictures of a part of a video, decoded, with their times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.error import ArgumentError, InvalidDataError
from av.video.stream import VideoStream

from pipeline.common.media import MAX_PIXELS
from pipeline.errors import RejectedSource
from preprocessing.media.packets import packets
from preprocessing.media.scan import Scan, in_part


@dataclasses.dataclass
class Damage:
    """Packets seen in the part asked for, and those that failed or gave a picture that FFmpeg calls corrupt."""

    packets: int = 0
    bad: int = 0
    first: str = ""
    _last_at: int = 0
    _bad_at_last: int = 0

    @property
    def inside(self) -> int:
        """Those that are bad before the last packet: a file that was cut off ends in the middle of one."""
        return self.bad - (self._bad_at_last if self._last_at == self.packets else 0)

    def add(self, what: str) -> None:
        self._bad_at_last = 1 + (self._bad_at_last if self._last_at == self.packets else 0)
        self._last_at = self.packets
        self.bad += 1
        self.first = self.first or what


def decoded_pictures(
    container: InputContainer,
    stream: VideoStream,
    found: Scan,
    start_s: float,
    end_s: float | None,
    damage: Damage,
    source_fps: float,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures of a part in presentation order with their times in seconds of the file's clock.

    Where the clock is not trusted a picture's time is its number over ``source_fps``, and nothing is skipped.
    """
    if found.seek_tick is not None:
        container.seek(found.seek_tick, stream=stream)
    usual_s = found.times.usual_s if found.trusted else 1 / source_fps
    number, skip = -1, found.num_skipped
    for packet in packets(container, stream):
        if packet.size and skip > 0:
            skip -= 1
            continue
        damage.packets += packet.size > 0 and not packet.is_discard
        try:
            pictures = packet.decode()
        except InvalidDataError as error:  # continue: the next keyframe repairs it
            damage.add(error.strerror or str(error))
            continue
        except ArgumentError as error:
            if stream.codec_context.width:
                raise
            # FFmpeg forgets a size that is over the limit.
            raise RejectedSource("too_large", f"pictures of more than {MAX_PIXELS} pixels") from error
        for frame in pictures:
            number += 1
            time_s = found.times.next(frame.pts) if found.trusted else number / source_fps
            if not in_part(time_s, start_s, None, usual_s):
                damage.packets -= 1
                continue
            if not in_part(time_s, 0.0, end_s, usual_s):
                return
            if frame.is_corrupt:
                damage.add(f"corrupt picture at {time_s:.2f} s")
            yield time_s, frame
