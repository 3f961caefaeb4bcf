"""What a manifest and the records of its shards must hold besides the right types; readers and jobs.verify share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.config.base import from_dict
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.sample import check_key
from pipeline.dataset.shards import SampleRecord, ShardRecord, member_extensions

_MOST = 2**31 - 1  # pixels and frames are kept in 32 bits
_MOST_FPS = 1e6


class Problem(NamedTuple):
    """One thing that is wrong in a record."""

    kind: str
    """As jobs.verify names it: key, label or record."""
    detail: str
    key: str
    """Of the sample; empty for one of the whole record."""


def stored_parameters(parameters: Mapping[str, Any]) -> StoredConfig:
    """A manifest's parameters of preprocessing. What older code did not write has its default; what newer code added is
    left out.

    Raises:
        ConfigError: one has the wrong type or breaks its rule.
    """
    known = {name: value for name, value in parameters.items() if name in StoredConfig.__dataclass_fields__}
    return from_dict(StoredConfig, known)


def record_problems(
    record: ShardRecord, num_classes: int, modalities: Sequence[str], *, places: bool = True
) -> Iterator[Problem]:
    """What is wrong with a record whose fields have the right types.

    Args:
        num_classes, modalities: of the data set.
        places: look at offsets and sizes too, for readers who do not compare them with the tar.
    """
    expected = member_extensions(modalities)
    least_frames = 1 if tuple(modalities) == ("rgb",) else 2  # a set of rgb alone may hold pictures
    most = num_classes - 1
    for sample in record.samples:
        try:
            check_key(sample.key)
        except ValueError as error:
            yield Problem("key", str(error), sample.key)
        if not 0 <= sample.label <= most:
            yield Problem("label", f"expected 0 to {most}, found {sample.label}", sample.key)
        members = tuple(member.name for member in sample.members)
        if members != expected:
            detail = f"members: expected {', '.join(expected)}, found {', '.join(members)}"
            yield Problem("record", detail, sample.key)
        if detail := _no_video(sample, least_frames) or (_no_place(sample) if places else ""):
            yield Problem("record", detail, sample.key)
    for reject in record.rejects:
        if not 0 <= reject.label <= most:
            detail = f"reject {reject.source!r}: expected 0 to {most}, found {reject.label}"
            yield Problem("label", detail, "")


def _no_video(sample: SampleRecord, least_frames: int) -> str:
    sides = (sample.width, sample.height, sample.num_frames)
    if sample.num_frames >= least_frames and min(sides) > 0 and max(sides) <= _MOST and 0 < sample.fps <= _MOST_FPS:
        return ""
    what = "no video with motion" if least_frames == 2 else "no video or picture"
    return f"{sample.num_frames} frames of {sample.width}x{sample.height} at {sample.fps} frames/s are {what}"


def _no_place(sample: SampleRecord) -> str:
    """Members that do not lie behind one another, within the sample's own bytes."""
    end = sample.offset
    for member in sorted(sample.members, key=lambda member: member.offset):
        if member.size < 0 or member.offset < end or not 0 <= member.crc32 < 2**32:
            return f"{member.name} has offset {member.offset}, size {member.size} and crc32 {member.crc32}"
        end = member.offset + member.size
    if sample.offset < 0 or end > sample.offset + sample.size:
        return f"bytes {sample.offset} to {sample.offset + sample.size} do not hold its members, which end at {end}"
    return ""
