"""Checks of a shard's record against the manifest and against itself, and of ``KEY.json`` against the record."""

from __future__ import annotations

import json
import math
from collections import Counter

from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.dataset.sample import check_key
from pipeline.dataset.shards import SampleRecord, ShardRecord, member_extensions
from preprocessing.verify.faults import FaultList


def check_record(record: ShardRecord, entry: ShardEntry, manifest: Manifest, faults: FaultList) -> None:
    """The record against the manifest, and against itself."""
    found = {
        "split": record.split,
        "name": record.name,
        "num_samples": len(record.samples),
        "num_rejects": len(record.rejects),
        "size": record.size,
        "sha256": record.sha256,
    }
    for name, value in found.items():
        faults.differ("record", name, getattr(entry, name), value, member="json")
    if entry.reasons:  # manifests from before reasons were counted have none
        reasons = dict(sorted(Counter(reject.reason for reject in record.rejects).items()))
        faults.differ("record", "reasons of rejects", entry.reasons, reasons, member="json")
    faults.differ("record", "parameter_hash", manifest.parameter_hash, record.parameter_hash, member="json")
    if manifest.flow is not None:  # manifests from before the engine was in them have none
        faults.differ("flow", "engine and parameters", manifest.flow, record.flow, member="json")
    expected = member_extensions(manifest.modalities)
    for sample in record.samples:
        try:
            check_key(sample.key)
        except ValueError as error:
            faults.add("key", str(error), sample.key)
        if not 0 <= sample.label < len(manifest.classes):
            faults.add("label", f"expected 0 to {len(manifest.classes) - 1}, found {sample.label}", sample.key)
        faults.differ("record", "members", ", ".join(expected), ", ".join(m.name for m in sample.members), sample.key)
        if not (sample.num_frames >= 2 and sample.width > 0 and sample.height > 0 and 0 < sample.fps < math.inf):
            faults.add(
                "record",
                f"{sample.num_frames} frames of {sample.width}x{sample.height} at {sample.fps} frames/s are no video"
                " with motion",
                sample.key,
            )
    for reject in record.rejects:
        if not 0 <= reject.label < len(manifest.classes):
            faults.add(
                "label",
                f"reject {reject.source!r}: expected 0 to {len(manifest.classes) - 1}, found {reject.label}",
                member="json",
            )


def check_description(data: bytes, sample: SampleRecord, classes: tuple[str, ...], faults: FaultList) -> None:
    """``KEY.json`` agrees with the record, and its class with its label."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except ValueError as error:
        faults.add("json", f"expected a JSON object, found {error}", sample.key, "json")
        return
    names = ("key", "label", "source", "num_frames", "fps", "width", "height")
    expected = {name: getattr(sample, name) for name in names}
    if 0 <= sample.label < len(classes):
        expected["class"] = classes[sample.label]
    for name, value in expected.items():
        faults.differ("json", name, repr(value), repr(found.get(name)), sample.key, "json")
