"""Small stored data sets made by hand, so that a test can put any one thing wrong and keep all checksums right."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of
from pipeline.dataset.sample import quantise_diff, quantise_flow, sample_key
from pipeline.dataset.shards import Reject, SampleRecord, ShardRecord, dali_index, file_sha256, scan_tar
from pipeline.storage import Storage
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.tars import write_tar

CLASSES = ("walk", "run & <jump>", "sit")
MODALITIES = ("rgb", "flow", "diff")
HEIGHT, WIDTH, FRAMES, FPS = 32, 48, 8, 25.0
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes: printf '' | sha256sum
FLOW = {"engine": "opencv", "version": "5.0.0", "mode": "tvl1", "parameters": {"tau": 0.25}}


@dataclasses.dataclass
class Clip:
    """A sample before it is stored: what its record says, and its members. Tests change either."""

    facts: dict[str, Any]
    members: dict[str, bytes]
    quality: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "flow_saturation": 0.0,
            "flow_error_px": 0.04,
            "flow_mean_px": 3.0,
            "source_width": 64,
            "source_height": 48,
        }
    )

    def describe(self, **changes: Any) -> None:
        """Write KEY.json from the facts, with changes."""
        label = self.facts["label"]
        known = CLASSES[label] if 0 <= label < len(CLASSES) else "?"
        self.members["json"] = json.dumps({**self.facts, "class": known, **changes}, sort_keys=True).encode()


def pictures(seed: int, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth random texture that moves 3 px a frame, now right, now left: (frames, height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.uniform(-400, 650, (height, width + 3 * frames + 3, 3)), (0, 0), 2.5)
    places = np.concatenate([[0], np.cumsum(rng.choice([-3, 3], frames - 1))])
    places -= places.min()
    return np.stack([np.clip(wide[:, p : p + width], 0, 255) for p in places]).astype(np.uint8)


def flow_codes(
    frames: int = FRAMES - 1, height: int = HEIGHT, width: int = WIDTH, length_px: float = 3.0
) -> np.ndarray:
    """Codes of a flow to the right."""
    flow = np.zeros((frames, 2, height, width), np.float32)
    flow[:, 0] = length_px
    return quantise_flow(flow)


def make_clip(source: str, label: int, seed: int) -> Clip:
    """A sound sample of 8 frames, 48x32, all modalities."""
    rgb = pictures(seed)
    facts = {
        "key": sample_key(source),
        "label": label,
        "source": source,
        "num_frames": FRAMES,
        "fps": FPS,
        "width": WIDTH,
        "height": HEIGHT,
    }
    members = {
        "rgb.mp4": encode_rgb(rgb, FPS, VideoCodec()),
        "flow.mp4": encode_gray(flow_codes(), FPS, VideoCodec()),
        "diff.mp4": encode_rgb(quantise_diff(rgb), FPS, VideoCodec()),
    }
    clip = Clip(facts, members)
    clip.describe()
    return clip


def retimed(video: bytes, tick: Callable[[int], Fraction]) -> bytes:
    """The same pictures at other times: frame i at ``tick(i)`` frames."""
    out = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(out, "w", format="mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        assert stream.time_base is not None
        per_frame = 1 / (Fraction(FPS) * stream.time_base)
        for index, packet in enumerate(p for p in source.demux(stream) if p.size):
            packet.pts = packet.dts = int(tick(index) * per_frame)
            packet.stream = copy
            target.mux(packet)
    return out.getvalue()


def store_shard(
    storage: Storage,
    folder: Path,
    split: str,
    name: str,
    clips: Sequence[Clip],
    rejects: Sequence[Reject] = (),
    **changes: Any,
) -> ShardRecord:
    """Write tar, index and record of a shard; without clips the record alone."""
    placed: list[SampleRecord] = []
    size, sha256 = 0, EMPTY_SHA256
    if clips:
        tar = folder / f"{split}-{name}.tar"
        write_tar(tar, [(c.facts["key"], c.members) for c in clips])
        for clip, (_, offset, length, members) in zip(clips, scan_tar(tar), strict=True):
            placed.append(SampleRecord(**clip.facts, **clip.quality, offset=offset, size=length, members=members))
        size, sha256 = tar.stat().st_size, file_sha256(tar)
        storage.write_file(f"{split}/{name}.tar", tar)
    fields: dict[str, Any] = {
        "parameter_hash": "p" * 12,
        "sources_sha256": "0" * 64,
        "flow": FLOW,
        "samples": tuple(placed),
        **changes,
    }
    record = ShardRecord(split=split, name=name, size=size, sha256=sha256, rejects=tuple(rejects), **fields)
    if clips:
        storage.write(f"{split}/{name}.idx", dali_index(record))
    storage.write(f"{split}/{name}.json", record.to_json())
    return record


def store_manifest(storage: Storage, records: Sequence[ShardRecord], **changes: Any) -> Manifest:
    """Write the manifest of these records."""
    fields: dict[str, Any] = {
        "dataset": "by hand",
        "classes": CLASSES,
        "modalities": MODALITIES,
        "parameters": {"short_side": HEIGHT, "flow_bound": 20.0, "crf": 20, "flow_engine": "opencv"},
        "parameter_hash": "p" * 12,
        "code_version": "test",
        "flow": FLOW,
        "shards": tuple(entry_of(r) for r in records),
        **changes,
    }
    manifest = Manifest(**fields)
    storage.write(MANIFEST, manifest.to_json())
    return manifest


def clips_of(shards: Mapping[str, int]) -> dict[str, list[Clip]]:
    """Sound clips: {shard path: how many}; labels and sources run on over the shards."""
    made, number = {}, 0
    for path, count in shards.items():
        made[path] = [
            make_clip(f"{CLASSES[i % 3].split()[0]}/clip {i}.avi", i % 3, seed=i) for i in range(number, number + count)
        ]
        number += count
    return made
