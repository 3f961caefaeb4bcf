"""Every kind of damage is put into a sound data set, and must be named: itself, in its place, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of, read_manifest
from pipeline.dataset.sample import quantise_diff
from pipeline.dataset.shards import Reject, ShardRecord
from pipeline.errors import ManifestError, StorageError
from pipeline.storage import LocalStorage, Storage, open_storage
from preprocessing.media.encode import VideoCodec
from preprocessing.verify.dataset import Totals, find_strays, open_manifest
from preprocessing.verify.faults import KINDS, Fault
from preprocessing.verify.shard import Decode, verify_shard_at
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.odd_media import with_vp9_size
from tests.support.stored_set import (
    FLOW,
    FPS,
    FRAMES,
    HEIGHT,
    WIDTH,
    Clip,
    clips_of,
    flow_codes,
    pictures,
    retimed,
    store_manifest,
    store_shard,
)

A, B, EMPTY = "train/shard-000000", "train/shard-000001", "test/shard-000000"
GONE = Reject(source="walk/gone.avi", label=0, reason="missing", detail="no such file")
CODEC = VideoCodec()
SOUND: dict[str, list[Clip]] = {}


def clips() -> dict[str, list[Clip]]:
    """Fresh copies of the sound clips; encoded once."""
    if not SOUND:
        SOUND.update(clips_of({A: 2, B: 2}))
    return copy.deepcopy(SOUND)


def store(storage: Storage, folder: Path, shards: dict[str, list[Clip]], **changes: Any) -> Manifest:
    """Two shards of two samples, and one whose only source was rejected."""
    records = [store_shard(storage, folder, *path.split("/"), made) for path, made in shards.items()]
    records.append(store_shard(storage, folder, *EMPTY.split("/"), [], [GONE]))
    return store_manifest(storage, records, **changes)


def faults_of(storage: Storage, decode: Decode = "all") -> list[Fault]:
    """What jobs.verify does, in one thread."""
    manifest, faults = open_manifest(storage)
    if manifest is None:
        return faults
    totals = Totals()
    for entry in manifest.shards:
        check = verify_shard_at(storage, entry, dataclasses.replace(manifest, shards=()), decode)
        faults += [*check.faults, *totals.add(check)]
    return [*faults, *totals.finish(), *find_strays(storage, manifest)]


def named(faults: list[Fault]) -> set[tuple[str, str]]:
    assert {fault.kind for fault in faults} <= KINDS.keys()
    return {(fault.kind, fault.place) for fault in faults}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "set"))


def edit(storage: Storage, path: str, change: Callable[[bytearray], None]) -> None:
    data = bytearray(storage.read(path))
    change(data)
    storage.write(path, bytes(data))


def rewrite_record(
    storage: Storage, path: str, change: Callable[[ShardRecord], ShardRecord], relist: bool = True
) -> None:
    """Change a record; with ``relist`` the manifest lists the changed one."""
    record = change(ShardRecord.from_json(storage.read(f"{path}.json"), path))
    storage.write(f"{path}.json", record.to_json())
    if relist:
        manifest = read_manifest(storage)
        shards = tuple(entry_of(record) if s.path == path else s for s in manifest.shards)
        storage.write(MANIFEST, dataclasses.replace(manifest, shards=shards).to_json())


def test_a_sound_set_has_no_fault(storage: LocalStorage, tmp_path: Path) -> None:
    manifest = store(storage, tmp_path, clips())
    assert faults_of(storage) == []
    check = verify_shard_at(storage, manifest.shards[0], manifest)
    assert (check.num_bytes, check.num_decoded, check.num_frames) == (
        manifest.shards[0].size,
        2,
        2 * (FRAMES + 2 * (FRAMES - 1)),
    )
    assert verify_shard_at(storage, manifest.shards[0], manifest, 1).num_frames == FRAMES + 2 * (FRAMES - 1)
    assert verify_shard_at(storage, manifest.shards[0], manifest, "none").num_frames == 0
    # The shard without a sample has a record, and no tar and no index.
    assert sorted(p for p in storage.list() if p.startswith(EMPTY)) == [f"{EMPTY}.json"]


def test_sets_of_the_pipeline_are_sound(tiny_set: str) -> None:
    assert faults_of(open_storage(tiny_set)) == []


def test_empty_tars_of_earlier_versions_are_sound(storage: LocalStorage, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    data = (tmp_path / "empty.tar").read_bytes()
    store(storage, tmp_path, clips())
    storage.write(f"{EMPTY}.tar", data)
    storage.write(f"{EMPTY}.idx", b"v1.2 0\n")
    assert named(faults_of(storage)) == {("stray", f"{EMPTY}.tar"), ("stray", f"{EMPTY}.idx")}
    rewrite_record(
        storage, EMPTY, lambda r: dataclasses.replace(r, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    )
    assert faults_of(storage) == []


# -- bytes that changed after they were written ------------------------------------------------------------------------


def flip(storage: Storage, path: str, offset: int) -> None:
    edit(storage, path, lambda data: data.__setitem__(offset, data[offset] ^ 1))


def first(storage: Storage) -> ShardRecord:
    return ShardRecord.from_json(storage.read(f"{A}.json"), A)


def damage_member(storage: Storage) -> set[tuple[str, str]]:
    sample = first(storage).samples[1]
    flip(storage, f"{A}.tar", sample.member("flow.mp4").offset + 200)
    return {("tar", f"{A}/tar"), ("crc32", f"{A}/{sample.key}.flow.mp4")}


def damage_header(storage: Storage) -> set[tuple[str, str]]:
    flip(storage, f"{A}.tar", first(storage).samples[1].offset + 3)  # in a file name: the header's own checksum fails
    return {("tar", f"{A}/tar")}


def damage_padding(storage: Storage) -> set[tuple[str, str]]:
    member = first(storage).samples[0].member("json")
    flip(storage, f"{A}.tar", member.offset + member.size)
    return {("tar", f"{A}/tar")}


def cut_tar(storage: Storage) -> set[tuple[str, str]]:
    sample = first(storage).samples[1]
    cut = sample.member("json").offset + 10  # its members are stored diff, flow, json, rgb
    edit(storage, f"{A}.tar", lambda data: data.__delitem__(slice(cut, None)))
    return {("tar", f"{A}/tar"), ("tar", f"{A}/{sample.key}.json"), ("tar", f"{A}/{sample.key}.rgb.mp4")}


def remove(ending: str) -> Callable[[Storage], set[tuple[str, str]]]:
    def damage(storage: Storage) -> set[tuple[str, str]]:
        storage.delete(f"{A}.{ending}")
        return {("missing", f"{A}/{ending}")}

    return damage


def spoil_index(storage: Storage) -> set[tuple[str, str]]:
    edit(storage, f"{A}.idx", lambda data: data.__setitem__(slice(0, 6), b"v1.2 3"))
    return {("index", f"{A}/idx")}


def spoil_record(storage: Storage) -> set[tuple[str, str]]:
    storage.write(f"{A}.json", b"{}")
    return {("record", f"{A}/json")}


def edit_record(storage: Storage) -> set[tuple[str, str]]:
    rewrite_record(storage, A, lambda r: dataclasses.replace(r, rejects=(GONE,)), relist=False)
    return {("record", f"{A}/json"), ("source", EMPTY)}  # the same source is rejected twice now


def relist_wrong_totals(storage: Storage) -> set[tuple[str, str]]:
    manifest = read_manifest(storage)
    shards = (dataclasses.replace(manifest.shards[0], num_samples=3, sha256="0" * 64), *manifest.shards[1:])
    storage.write(MANIFEST, dataclasses.replace(manifest, shards=shards).to_json())
    return {("record", f"{A}/json"), ("tar", f"{A}/tar")}


def other_parameters(storage: Storage) -> set[tuple[str, str]]:
    rewrite_record(
        storage, B, lambda r: dataclasses.replace(r, parameter_hash="q" * 12, flow={**FLOW, "version": "4.9.0"})
    )
    return {("record", f"{B}/json"), ("flow", f"{B}/json")}


def wrong_offset(storage: Storage) -> set[tuple[str, str]]:
    sample = first(storage).samples[0]
    members = tuple(dataclasses.replace(m, offset=m.offset + 512) if m.name == "rgb.mp4" else m for m in sample.members)
    rewrite_record(
        storage,
        A,
        lambda r: dataclasses.replace(r, samples=(dataclasses.replace(sample, members=members), r.samples[1])),
    )
    return {("record", f"{A}/{sample.key}.rgb.mp4"), ("index", f"{A}/idx")}


def wrong_range(storage: Storage) -> set[tuple[str, str]]:
    sample = first(storage).samples[0]
    rewrite_record(
        storage,
        A,
        lambda r: dataclasses.replace(r, samples=(dataclasses.replace(sample, size=sample.size + 512), r.samples[1])),
    )
    return {("record", f"{A}/{sample.key}")}


def add_strays(storage: Storage) -> set[tuple[str, str]]:
    storage.write("train/shard-000009.tar", b"left by an attempt that died")
    storage.write("val/notes.txt", b"x")
    storage.write("elsewhere/notes.txt", b"not below a split: nobody's business")
    return {("stray", "train/shard-000009.tar"), ("stray", "val/notes.txt")}


def edit_manifest(storage: Storage) -> set[tuple[str, str]]:
    storage.write(MANIFEST, json.dumps(json.loads(storage.read(MANIFEST))).encode())
    return {("manifest", MANIFEST)}


def cut_manifest(storage: Storage) -> set[tuple[str, str]]:
    edit(storage, MANIFEST, lambda data: data.__delitem__(slice(100, None)))
    return {("manifest", MANIFEST)}


def list_twice(storage: Storage) -> set[tuple[str, str]]:
    manifest = read_manifest(storage)
    storage.write(MANIFEST, dataclasses.replace(manifest, shards=(*manifest.shards, manifest.shards[0])).to_json())
    keys = {("key", f"{A}/{s.key}") for s in first(storage).samples}
    return {("manifest", MANIFEST), ("source", A), *keys}


@pytest.mark.parametrize(
    "damage",
    [
        damage_member,
        damage_header,
        damage_padding,
        cut_tar,
        remove("tar"),
        remove("idx"),
        remove("json"),
        spoil_index,
        spoil_record,
        edit_record,
        relist_wrong_totals,
        other_parameters,
        wrong_offset,
        wrong_range,
        add_strays,
        edit_manifest,
        cut_manifest,
        list_twice,
    ],
    ids=lambda f: f.__qualname__.split(".")[0],
)
def test_damaged_objects_are_named(
    damage: Callable[[Storage], set[tuple[str, str]]], storage: LocalStorage, tmp_path: Path
) -> None:
    store(storage, tmp_path, clips())
    expected = damage(storage)
    assert named(faults_of(storage, "none")) == named(faults_of(storage)) == expected


def test_damage_in_several_places_is_all_named(storage: LocalStorage, tmp_path: Path) -> None:
    store(storage, tmp_path, clips())
    expected = damage_member(storage) | add_strays(storage)
    storage.delete(f"{B}.tar")
    storage.delete(f"{B}.idx")
    faults = faults_of(storage)
    assert named(faults) == expected | {("missing", f"{B}/tar"), ("missing", f"{B}/idx")}
    member = next(f for f in faults if f.kind == "crc32")
    assert "expected" in member.detail
    assert "found" in member.detail


# -- samples that were written wrong, with every checksum right --------------------------------------------------------


def one_frame_less(clip: Clip) -> set[tuple[str, str]]:
    clip.members["rgb.mp4"] = encode_rgb(pictures(0)[:-1], FPS, CODEC)
    return {("num_frames", "rgb.mp4")}


def one_flow_more(clip: Clip) -> set[tuple[str, str]]:
    clip.members["flow.mp4"] = encode_gray(flow_codes(FRAMES), FPS, CODEC)
    return {("num_frames", "flow.mp4")}


def flow_of_another_size(clip: Clip) -> set[tuple[str, str]]:
    clip.members["flow.mp4"] = encode_gray(flow_codes(height=HEIGHT // 2), FPS, CODEC)
    return {("size", "flow.mp4")}


def rgb_of_another_size(clip: Clip) -> set[tuple[str, str]]:
    clip.members["rgb.mp4"] = encode_rgb(pictures(0, width=WIDTH + 2), FPS, CODEC)
    return {("size", "rgb.mp4")}


def huge_pictures(clip: Clip) -> set[tuple[str, str]]:
    """As the member says of itself: some 100 MB a picture, were it decoded."""
    for name in ("rgb.mp4", "flow.mp4"):
        clip.members[name] = with_vp9_size(clip.members[name], 8192, 8192)
    return {("size", "rgb.mp4"), ("size", "flow.mp4")}


def another_rate(clip: Clip) -> set[tuple[str, str]]:
    clip.members["diff.mp4"] = encode_rgb(quantise_diff(pictures(0)), 2 * FPS, CODEC)
    return {("clock", "diff.mp4"), ("misaligned", "diff.mp4")}


def late_start(clip: Clip) -> set[tuple[str, str]]:
    clip.members["flow.mp4"] = retimed(clip.members["flow.mp4"], lambda i: Fraction(i + 1))
    return {("clock", "flow.mp4"), ("misaligned", "flow.mp4")}


def uneven(clip: Clip) -> set[tuple[str, str]]:
    clip.members["rgb.mp4"] = retimed(
        clip.members["rgb.mp4"], lambda i: Fraction(i) + (Fraction(1, 2) if i == 4 else 0)
    )
    return {("clock", "rgb.mp4"), ("misaligned", "flow.mp4"), ("misaligned", "diff.mp4")}


def difference_one_late(clip: Clip) -> set[tuple[str, str]]:
    clip.members["diff.mp4"] = encode_rgb(np.roll(quantise_diff(pictures(0)), 1, 0), FPS, CODEC)
    return {("content", "diff.mp4")}


def difference_of_another_clip(clip: Clip) -> set[tuple[str, str]]:
    clip.members["diff.mp4"] = encode_rgb(quantise_diff(pictures(99)), FPS, CODEC)
    return {("content", "diff.mp4")}


def flow_too_long(clip: Clip) -> set[tuple[str, str]]:
    clip.members["flow.mp4"] = encode_gray(flow_codes(length_px=9.0), FPS, CODEC)
    return {("content", "flow.mp4")}


def no_video(clip: Clip) -> set[tuple[str, str]]:
    clip.members["rgb.mp4"] = b"<html>404</html>" * 40
    return {("undecodable", "rgb.mp4")}


def cut_video(clip: Clip) -> set[tuple[str, str]]:
    data = clip.members["rgb.mp4"]
    clip.members["rgb.mp4"] = data[: len(data) // 2]  # the list of frames is at the end of an MP4
    return {("undecodable", "rgb.mp4")}


def other_label_in_json(clip: Clip) -> set[tuple[str, str]]:
    clip.describe(label=2)
    return {("json", "json")}


def other_class_in_json(clip: Clip) -> set[tuple[str, str]]:
    clip.describe(**{"class": "sit"})
    return {("json", "json")}


def json_is_none(clip: Clip) -> set[tuple[str, str]]:
    clip.members["json"] = b"[1"
    return {("json", "json")}


def label_without_class(clip: Clip) -> set[tuple[str, str]]:
    clip.facts["label"] = 3
    clip.describe()
    return {("label", "")}


def member_missing(clip: Clip) -> set[tuple[str, str]]:
    del clip.members["flow.mp4"]
    return {("record", "")}


def frames_in_record_wrong(clip: Clip) -> set[tuple[str, str]]:
    clip.facts["num_frames"] = FRAMES + 1
    clip.describe()
    return {("num_frames", f"{m}.mp4") for m in ("rgb", "flow", "diff")}


def rate_in_record_wrong(clip: Clip) -> set[tuple[str, str]]:
    clip.facts["fps"] = 24.0
    clip.describe()
    return {("clock", f"{m}.mp4") for m in ("rgb", "flow", "diff")}


@pytest.mark.parametrize(
    "damage",
    [
        one_frame_less,
        one_flow_more,
        flow_of_another_size,
        rgb_of_another_size,
        huge_pictures,
        another_rate,
        late_start,
        uneven,
        difference_one_late,
        difference_of_another_clip,
        flow_too_long,
        no_video,
        cut_video,
        other_label_in_json,
        other_class_in_json,
        json_is_none,
        label_without_class,
        member_missing,
        frames_in_record_wrong,
        rate_in_record_wrong,
    ],
)
def test_wrong_samples_are_named(
    damage: Callable[[Clip], set[tuple[str, str]]], storage: LocalStorage, tmp_path: Path
) -> None:
    shards = clips()
    clip = shards[A][0]
    expected = {(kind, f"{A}/{clip.facts['key']}" + (f".{member}" if member else "")) for kind, member in damage(clip)}
    store(storage, tmp_path, shards)
    assert named(faults_of(storage)) == expected


def test_a_script_that_names_the_right_video_is_no_video(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg would follow it to a file of this machine."""
    shards = clips()
    clip = shards[A][0]
    (tmp_path / "other.mp4").write_bytes(clip.members["rgb.mp4"])
    monkeypatch.chdir(tmp_path)
    clip.members["rgb.mp4"] = b"ffconcat version 1.0\nfile other.mp4\n"
    store(storage, tmp_path, shards)
    assert named(faults_of(storage)) == {("undecodable", f"{A}/{clip.facts['key']}.rgb.mp4")}


def test_a_wrong_sample_is_not_seen_where_nothing_is_decoded(storage: LocalStorage, tmp_path: Path) -> None:
    shards = clips()
    one_flow_more(shards[A][1])
    store(storage, tmp_path, shards)
    assert faults_of(storage, "none") == faults_of(storage, 1) == []  # 1: the first of every shard
    assert len(faults_of(storage, 2)) == 1


def test_keys_and_sources_that_stand_twice(storage: LocalStorage, tmp_path: Path) -> None:
    shards = clips()
    twin, other = shards[A][0], shards[B][1]
    other.facts["key"] = twin.facts["key"]
    other.describe()
    store(storage, tmp_path, shards)
    assert named(faults_of(storage)) == {("key", f"{B}/{twin.facts['key']}")}
    other.facts["source"] = twin.facts["source"]
    other.describe()
    store(storage, tmp_path, shards)
    faults = faults_of(storage)
    assert named(faults) == {("key", f"{B}/{twin.facts['key']}"), ("source", B)}
    assert all(f.detail.endswith(f"is already in {A}") for f in faults)


def test_a_key_outside_the_grammar(storage: LocalStorage, tmp_path: Path) -> None:
    store(storage, tmp_path, clips())
    sample = first(storage).samples[0]
    bad = "no good"
    data = storage.read(f"{A}.tar")
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for info in old:
            body = old.extractfile(info)
            info.name = info.name.replace(sample.key, bad)
            new.addfile(info, body)
    storage.write(f"{A}.tar", out.getvalue())
    rename = dataclasses.replace(sample, key=bad)
    rewrite_record(
        storage,
        A,
        lambda r: dataclasses.replace(
            r,
            size=len(out.getvalue()),
            sha256=hashlib.sha256(out.getvalue()).hexdigest(),
            samples=(rename, r.samples[1]),
        ),
    )
    assert ("key", f"{A}/{bad}") in named(faults_of(storage))


def test_manifests_without_flow_compare_the_shards(storage: LocalStorage, tmp_path: Path) -> None:
    store(storage, tmp_path, clips(), flow=None)
    assert faults_of(storage) == []
    rewrite_record(storage, B, lambda r: dataclasses.replace(r, flow={**FLOW, "mode": "tvl1-fast"}))
    assert named(faults_of(storage)) == {("flow", B)}


class FailingStorage(LocalStorage):
    """Tars cannot be read."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        raise StorageError(f"{path}: 503 after 8 attempts")


def test_a_storage_that_fails_is_no_fault_of_the_data(storage: LocalStorage, tmp_path: Path) -> None:
    manifest = store(storage, tmp_path, clips())
    with pytest.raises(StorageError, match="503"):
        verify_shard_at(FailingStorage(str(storage.root)), manifest.shards[0], manifest)


def test_no_manifest_is_refused(storage: LocalStorage) -> None:
    with pytest.raises(ManifestError, match="no data set is finished there"):
        open_manifest(storage)


def test_coarse_quality_gives_no_false_alarm(storage: LocalStorage, tmp_path: Path) -> None:
    shards = clips()
    for clip in [c for made in shards.values() for c in made]:
        for name, frames in (("rgb.mp4", pictures(0)), ("diff.mp4", quantise_diff(pictures(0)))):
            clip.members[name] = encode_rgb(frames, FPS, VideoCodec(crf=63))
    store(storage, tmp_path, shards, parameters={"crf": 63})
    assert faults_of(storage) == []
