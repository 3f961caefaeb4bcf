"""One shard, from source videos to a committed record. No Ray here: a task of ``jobs.preprocess`` calls this once.

    decode -> flow -> difference -> encode -> tar in a local folder -> read it back -> upload tar, index, and last the record

The same sources and parameters give the same bytes, so an attempt that died half-way is simply repeated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.config.base import config_hash
from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ManifestError, NotFoundError, ReciprocalError, RejectedSource
from pipeline.sample import dequantise_flow, extension, quantise_diff, quantise_flow, sample_key
from pipeline.shards import Reject, SampleRecord, ShardRecord, dali_index, file_sha256, sample_json, scan_tar, write_tar
from pipeline.storage import Storage
from preprocessing.annotations import Source
from preprocessing.decode import decode_video
from preprocessing.encode import VideoCodec, encode_gray, encode_rgb, stored_rate
from preprocessing.flow import flow_engine, to_gray
from preprocessing.plan import ShardPlan

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A finished sample: its record without a place in a tar, and its members by webdataset extension."""

    record: SampleRecord
    members: Mapping[str, bytes]


def make_sample(source: Source, root: Path, classes: Sequence[str], stored: StoredConfig) -> Sample:
    """Turn one source into one sample.

    Raises:
        RejectedSource: the source cannot become a sample; the reason is one of ``preprocessing.decode.REASONS``.
    """
    decoded = decode_video(
        root / source.path, short_side=stored.short_side, fps=stored.fps, start_s=source.start_s, end_s=source.end_s, max_frames=stored.max_frames
    )
    frames, fps = decoded.frames_rgb_THWC, float(stored_rate(decoded.fps))
    codec = VideoCodec(gop=stored.gop, crf=stored.crf)
    members = {extension("rgb"): encode_rgb(frames, fps, codec)}
    saturation = error_px = None
    if "flow" in stored.modalities:
        flow = flow_engine(stored.flow_engine).flow(to_gray(frames))
        codes = quantise_flow(flow, stored.flow_bound)
        members[extension("flow")] = encode_gray(codes, fps, codec)
        # Rounded, because the last bits of a mean depend on the machine's vector width, and the record's bytes should not.
        saturation = round(float(np.mean(np.abs(flow) > stored.flow_bound)), 6)
        error_px = round(float(np.mean(np.abs(dequantise_flow(codes, stored.flow_bound) - flow))), 5)
    if "diff" in stored.modalities:
        members[extension("diff")] = encode_rgb(quantise_diff(frames), fps, codec)
    key = sample_key(source.name)
    num_frames, height, width = frames.shape[:3]
    facts = {"key": key, "label": source.label, "num_frames": num_frames, "fps": fps, "width": width, "height": height, "source": source.name}
    members["json"] = sample_json({**facts, "class": classes[source.label], "flow_bound": stored.flow_bound, "modalities": list(stored.modalities)})
    record = SampleRecord(**facts, offset=0, size=0, members=(), flow_saturation=saturation, flow_error_px=error_px)
    return Sample(record=record, members=members)


def build_shard(
    plan: ShardPlan, *, root: Path, classes: Sequence[str], stored: StoredConfig, storage: Storage, crashed: Mapping[str, str] | None = None
) -> ShardRecord:
    """Build, check and store one shard; every source of the plan ends as a sample or as a reject.

    Args:
        root: folder the sources' paths are relative to.
        crashed: source name to detail, for sources known to take the decoder's process down: rejected unread.

    Raises:
        StorageError: the storage failed after its retries.
        ReciprocalError: a source broke something behind the decoder, or the tar did not read back as written.
    """
    cv2.setNumThreads(1)  # a task is one core
    samples, rejects = [], []
    for source in plan.sources:
        try:
            if crashed and source.name in crashed:
                raise RejectedSource("crashed", crashed[source.name])
            samples.append(make_sample(source, root, classes, stored))
        except RejectedSource as error:
            rejects.append(Reject(source=source.name, label=source.label, reason=error.reason, detail=error.detail))
        except (ValueError, av.FFmpegError, cv2.error, ArithmeticError) as error:
            raise ReciprocalError(f"{plan.path}: {source.name}: {type(error).__name__}: {error}") from error
    with tempfile.TemporaryDirectory(prefix="reciprocal-") as folder:
        tar = Path(folder) / f"{plan.name}.tar"
        write_tar(tar, [(s.record.key, s.members) for s in samples])
        record = ShardRecord(
            split=plan.split,
            name=plan.name,
            parameter_hash=config_hash(stored),
            sources_sha256=plan.sources_sha256,
            size=tar.stat().st_size,
            sha256=file_sha256(tar),
            samples=_placed(samples, tar),
            rejects=tuple(rejects),
        )
        verify_shard(record, tar, stored)
        storage.write_file(f"{plan.path}.tar", tar)
    if storage.size(f"{plan.path}.tar") != record.size:
        raise ReciprocalError(f"{storage.uri}/{plan.path}.tar: stored with {storage.size(f'{plan.path}.tar')} bytes instead of {record.size}")
    storage.write(f"{plan.path}.idx", dali_index(record))
    storage.write(f"{plan.path}.json", record.to_json())  # last: without it the shard does not exist
    return record


def committed_record(plan: ShardPlan, stored: StoredConfig, storage: Storage) -> ShardRecord | None:
    """The record of a shard that an earlier run finished with the same sources and parameters, else None.

    The record counts only while its tar and index are there, and the tar has its size.
    """
    try:
        record = ShardRecord.from_json(storage.read(f"{plan.path}.json"), f"{plan.path}.json")
        same = (record.split, record.name, record.parameter_hash, record.sources_sha256) == (plan.split, plan.name, config_hash(stored), plan.sources_sha256)
        whole = same and storage.size(f"{plan.path}.tar") == record.size and storage.exists(f"{plan.path}.idx")
    except NotFoundError:
        return None
    except ManifestError as error:
        log.warning("%s/%s.json is damaged and is made again: %s", storage.uri, plan.path, error)
        return None
    return record if whole else None


def _placed(samples: Sequence[Sample], tar: Path) -> tuple[SampleRecord, ...]:
    """The samples' records with the places found by reading the tar; what is found must be what was written."""
    found = scan_tar(tar)
    if [key for key, *_ in found] != [s.record.key for s in samples]:
        raise ReciprocalError(f"{tar.name}: {len(found)} samples read back, {len(samples)} written")
    records = []
    for sample, (key, offset, size, members) in zip(samples, found, strict=True):
        if {m.name: (m.size, m.crc32) for m in members} != {name: (len(data), zlib.crc32(data)) for name, data in sample.members.items()}:
            raise ReciprocalError(f"{tar.name}: sample {key} does not read back as it was written")
        records.append(dataclasses.replace(sample.record, offset=offset, size=size, members=members))
    return tuple(records)


def verify_shard(record: ShardRecord, tar: Path, stored: StoredConfig) -> None:
    """Decode every stored video of a local tar and compare its size and its number of frames with the record.

    Raises:
        ReciprocalError: naming the sample and the member.
    """
    with tar.open("rb") as file:
        for sample in record.samples:
            for modality in stored.modalities:
                member = sample.member(extension(modality))
                file.seek(member.offset)
                found = _video_shape(file.read(member.size))
                expected = (
                    sample.num_frames - (modality != "rgb"),
                    sample.height * (2 if modality == "flow" else 1),  # u above v
                    sample.width,
                )
                if found != expected:
                    raise ReciprocalError(f"{record.path}: {sample.key}.{member.name} decodes to (frames, height, width) {found} instead of {expected}")


def _video_shape(data: bytes) -> tuple[int, int, int]:
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            shapes = [(frame.height, frame.width) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise ReciprocalError(f"a stored video cannot be decoded: {error}") from error
    if len(set(shapes)) != 1:
        raise ReciprocalError(f"a stored video decodes to pictures of the sizes {sorted(set(shapes))}")
    return len(shapes), *shapes[0]


def code_version() -> str:
    """What made the bytes: a hash of the code that decides them, and the versions of the libraries under it."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in [*sorted(here.glob("*.py")), here.parent / "pipeline/sample.py", here.parent / "pipeline/shards.py"]:
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()[:12]} opencv-{cv2.__version__} av-{av.__version__} numpy-{np.__version__}"
