"""Checks of a shard's record against the manifest and against itself, and of ``KEY.json`` against the record."""

from __future__ import annotations

from collections import Counter

from pipeline.common.strict_json import JsonError, as_object, parse_json
from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.dataset.rules import record_problems
from pipeline.dataset.shards import SampleRecord, ShardRecord
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
    for kind, detail, key in record_problems(record, len(manifest.classes), manifest.modalities, places=False):
        faults.add(kind, detail, key, "" if key else "json")


def check_description(data: bytes, sample: SampleRecord, classes: tuple[str, ...], faults: FaultList) -> None:
    """``KEY.json`` agrees with the record, and its class with its label."""
    try:
        found = as_object(parse_json(data, "it"), "it")
    except JsonError as error:
        faults.add("json", f"expected a JSON object, but {error}", sample.key, "json")
        return
    names = ("key", "label", "source", "num_frames", "fps", "width", "height")
    expected = {name: getattr(sample, name) for name in names}
    if 0 <= sample.label < len(classes):
        expected["class"] = classes[sample.label]
    for name, value in expected.items():
        faults.differ("json", name, repr(value), repr(found.get(name)), sample.key, "json")
