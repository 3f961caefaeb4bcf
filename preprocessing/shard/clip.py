"""The files of one sample while it is made: one video per modality, written block by block, then read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from pipeline.common.media import STORED_FORMATS, open_media
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import extension
from pipeline.dataset.shards import SampleRecord, sample_json
from pipeline.errors import ReciprocalError
from preprocessing.media.encode import VideoCodec, VideoWriter, stored_rate
from preprocessing.shard.motion import DifferenceStage
from preprocessing.shard.plan import PlannedSource
from preprocessing.shard.work import StageTimes, named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A finished sample: its record without a place in a tar, and its members by webdataset extension, as files or
    bytes.
    """

    record: SampleRecord
    members: Mapping[str, Path | bytes]


class ClipWriter:
    """Encodes one sample into files of ``folder``. Not thread-safe; ``remove`` may be called in any state."""

    def __init__(
        self,
        planned: PlannedSource,
        fps: float,
        classes: Sequence[str],
        stored: StoredConfig,
        folder: Path,
        times: StageTimes,
    ) -> None:
        self.source, self.times = planned.source, times
        self._fps, self._classes, self._stored, self._folder = fps, classes, stored, folder
        self._key = planned.key
        self._writers: dict[str, VideoWriter] = {}
        self._differences = DifferenceStage() if "diff" in stored.modalities else None
        self._num_frames = 0
        self._size = (0, 0)

    def _path(self, modality: str) -> Path:
        return self._folder / f"{self._key}.{extension(modality)}"

    def write(self, frames_rgb_THWC: np.ndarray, flow_codes: np.ndarray | None) -> None:
        """Append a block: T frames, and the flow codes of the pairs that end in them (None where there are none)."""
        with self.times.measure("encode_s"), named(self.source):
            diff_codes = self._differences.next(frames_rgb_THWC) if self._differences else None
            self._num_frames += len(frames_rgb_THWC)
            for modality, pictures in (("rgb", frames_rgb_THWC), ("flow", flow_codes), ("diff", diff_codes)):
                if pictures is not None:
                    self._writer(modality, pictures).write(pictures)

    def _writer(self, modality: str, pictures: np.ndarray) -> VideoWriter:
        if modality not in self._writers:
            size = (pictures.shape[2], pictures.shape[1])
            if modality == "rgb":
                self._size = size
            codec = VideoCodec(gop=self._stored.gop, crf=self._stored.crf)
            self._writers[modality] = VideoWriter(
                self._path(modality), "gray" if modality == "flow" else "rgb", size, self._fps, codec
            )
        return self._writers[modality]

    def finish(self) -> Sample:
        """Close the videos, decode each once, and return the sample.

        Raises:
            ReciprocalError: a video does not decode to what was written; names the member.
        """
        with self.times.measure("encode_s"), named(self.source):
            for writer in self._writers.values():
                writer.close()
        members: dict[str, Path | bytes] = {extension(m): self._path(m) for m in self._stored.modalities}
        width, height = self._size
        with self.times.measure("verify_s"), named(self.source):
            for modality in self._stored.modalities:
                check_video(self._path(modality), modality, self._num_frames, width, height)
        facts = {
            "key": self._key,
            "label": self.source.label,
            "num_frames": self._num_frames,
            "fps": float(stored_rate(self._fps)),
            "width": width,
            "height": height,
            "source": self.source.name,
        }
        described = {
            "class": self._classes[self.source.label],
            "flow_bound": self._stored.flow_bound,
            "modalities": list(self._stored.modalities),
        }
        members["json"] = sample_json({**facts, **described})
        return Sample(record=SampleRecord(**facts, offset=0, size=0, members=()), members=members)

    def remove(self) -> None:
        """Close and delete the sample's files, finished or not."""
        for modality, writer in self._writers.items():
            writer.abandon()
            self._path(modality).unlink(missing_ok=True)
        self._writers = {}


def check_video(source: Path | bytes, modality: str, num_frames: int, width: int, height: int) -> None:
    """Decode a stored video and compare its pictures with those of a sample of ``num_frames`` frames of width x height.

    Raises:
        ReciprocalError: it cannot be decoded, or has another number or size of pictures.
    """
    # Flow stores u above v; flow and difference have one picture fewer than rgb.
    expected = (num_frames - (modality != "rgb"), height * (2 if modality == "flow" else 1), width)
    shapes: dict[tuple[int, int], int] = {}
    try:
        with open_media(source, formats=STORED_FORMATS) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for frame in container.decode(stream):
                shapes[frame.height, frame.width] = shapes.get((frame.height, frame.width), 0) + 1
    except (av.FFmpegError, IndexError) as error:
        raise ReciprocalError(f"{modality}.mp4 cannot be decoded: {error}") from error
    found = [(count, *shape) for shape, count in shapes.items()]
    if found != [expected]:
        raise ReciprocalError(f"{modality}.mp4 decodes to (frames, height, width) {found} instead of {expected}")
