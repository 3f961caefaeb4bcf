"""Odd videos through the whole job: each ends as a sample that shows what FFmpeg shows, or as a reject with the right
reason.

The job is run from its command line on a private Ray; what it stored is compared with an independent reading of the
sources.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra import process
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.dataset.shards import Reject, SampleRecord, split_members
from pipeline.storage import open_storage
from preprocessing.sources.side_files import side_ending
from tests.oracles.media import disagreement, read_independently, stored_frames
from tests.support.odd_media import SHARED_REJECTS, generated, moving, write_video
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
# A worker has imported the project (200 MiB) and holds a few blocks of frames; a 4K picture takes 25 MB.
WORKER_MB = 650
LONG_WORKER_MB = 350


@dataclasses.dataclass(frozen=True)
class Result:
    """What the job stored, by the sources' names, and the most memory one of its workers held."""

    samples: dict[str, tuple[SampleRecord, np.ndarray]]
    rejects: dict[str, Reject]
    worker_mb: float
    output: str


def preprocess(tmp: Path, *arguments: str, timeout_s: float = 200) -> Result:
    """Run the job to its end and read back everything."""
    out, log = f"file://{tmp}/out", tmp / "log"
    env = {**os.environ, "RECIPROCAL_STACK": "off", "RECIPROCAL_HOME": str(tmp / "home")}
    identity = process.start(
        [sys.executable, "-m", "jobs.preprocess", *arguments, "--out", out], env=env, cwd=ROOT, log=log
    )
    deadline, most_mb = time.monotonic() + timeout_s, 0.0
    try:
        while process.is_alive(identity):
            assert time.monotonic() < deadline, f"the job hangs\n{log.read_text()}"
            most_mb = max([most_mb, *(_peak_mb(p.pid) for p in process.family([identity], ""))])
            time.sleep(0.2)
    finally:
        process.end([identity], "", grace_s=2)
    assert Path(f"{tmp}/out/manifest.json").exists(), log.read_text()
    storage = open_storage(out)
    manifest = read_manifest(storage)
    samples, rejects = {}, {}
    for split in manifest.split_sizes():
        for record in read_records(storage, manifest, split):
            rejects |= {reject.source: reject for reject in record.rejects}
            for sample in record.samples:
                members = split_members(sample, storage.read_range(f"{record.path}.tar", sample.offset, sample.size))
                samples[sample.source] = (sample, stored_frames(members["rgb.mp4"]))
    return Result(samples, rejects, most_mb, log.read_text())


def _peak_mb(pid: int) -> float:
    """Peak resident memory of a Ray worker, in MiB; 0 for any other process."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return 0.0
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0.0
    return int(line.split()[1]) / 1024


def check(result: Result, expected: dict[str, str], sources: Path) -> None:
    """Every source ended as expected, and every sample shows what its source shows."""
    wrong = []
    for name, outcome in expected.items():
        if name in result.samples:
            record, frames = result.samples[name]
            if outcome != "sample":
                wrong.append(f"{name!r}: a sample of {record.num_frames} frames, expected {outcome}")
            elif len(frames) != record.num_frames:
                wrong.append(f"{name!r}: {len(frames)} stored frames, recorded {record.num_frames}")
            elif fault := disagreement(
                frames, record.fps, read_independently(sources / name, (record.width, record.height))
            ):
                wrong.append(f"{name!r}: {fault}")
        elif name not in result.rejects:
            wrong.append(f"{name!r} is lost")
        elif result.rejects[name].reason != outcome:
            wrong.append(f"{name!r}: {result.rejects[name].reason} ({result.rejects[name].detail}), expected {outcome}")
    assert not wrong, "\n".join(wrong) + "\n" + result.output
    assert len(result.samples) + len(result.rejects) == len(expected)


def test_every_odd_file_ends_as_a_sample_or_its_reject(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The shared odd files (where they are), and odd ones made here, in class folders."""
    source = tmp_path / "videos"
    expected = {f"made/{name}": outcome for name, outcome in generated(source / "made").items()}
    try:
        shared: Path | None = request.getfixturevalue("real_data")
    except pytest.skip.Exception:
        shared = None
    for path in sorted((shared / "odd").rglob("*")) if shared else []:
        if path.is_file() and path.name != "README.md":
            name = f"shared_{path.parent.name}/{path.name}"
            (source / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, source / name)
            expected[name] = SHARED_REJECTS.get(path.name, "sample")
    # By their names these are left out; under a video's name they are tried.
    side_files = [name for name in expected if side_ending(name)]
    for name in side_files:
        shutil.copyfile(source / name, source / f"{name}.mp4")
        expected[f"{name}.mp4"] = expected.pop(name)
    # What is no regular file is not there, and nothing waits for it.
    os.mkfifo(source / "made/pipe.mp4")
    (source / "made/folder.mp4").mkdir()
    (source / "made/nowhere.mp4").symlink_to(source / "nothing")
    (source / "made/loop.mp4").symlink_to(source / "made/loop.mp4")
    (source / "made/loop").symlink_to(source / "made")
    outside = write_video(tmp_path / "secret.mp4", moving(5))
    (source / "made/outside.mp4").symlink_to(outside)
    arguments = (
        "--format",
        "folder",
        "--source",
        str(source),
        "--stored.short-side",
        "64",
        "--stored.modalities",
        "rgb",
        "diff",
        "--samples-per-shard",
        "8",
        "--max-rejects",
        "100%",
    )
    result = preprocess(tmp_path, *arguments)
    check(result, expected, source)
    assert f"left out {len(side_files)} files that are no videos" in result.output
    assert result.worker_mb < WORKER_MB, result.worker_mb
    assert result.samples["made/uhd_3840x2160.mp4"][0].source_width == 3840


@pytest.mark.long
def test_two_hours_and_paths_that_leave_the_folder(tmp_path: Path) -> None:
    """A CSV against an archive; both try to leave. Frames of the long video would take 240 MB at once."""
    source = tmp_path / "videos"
    long = write_video(source / "long.avi", moving(14_400, 64, 48, speed=0.5), codec="mpeg4", rate=2, bit_rate=60_000)
    write_video(source / "a \"good\" one, 'here'.mkv", moving(8), codec="ffv1", pix_fmt="bgr0")
    write_video(tmp_path / "secret.mp4", moving(5))
    with tarfile.open(tmp_path / "videos.tar", "w") as archive:
        for path in sorted(source.iterdir()):
            archive.add(path, path.name)
        archive.add(tmp_path / "secret.mp4", "../secret.mp4")
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.mp4"
        archive.addfile(link)
    outcomes = {
        "long.avi": "sample",
        "a \"good\" one, 'here'.mkv": "sample",
        "../secret.mp4": "unsafe_path",
        str(tmp_path / "secret.mp4"): "unsafe_path",
        "x/../../secret.mp4": "unsafe_path",
        "link.mp4": "unsafe_path",
        "not there.mp4": "missing",
    }
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([name, "class"] for name in outcomes)
    arguments = (
        "--format",
        "csv",
        "--source",
        str(tmp_path / "videos.tar"),
        "--annotations",
        str(tmp_path / "list.csv"),
        "--max-rejects",
        "10",
    )
    result = preprocess(tmp_path, *arguments, "--stored.short-side", "64", "--stored.modalities", "rgb")
    assert {name: "sample" for name in result.samples} | {
        name: r.reason for name, r in result.rejects.items()
    } == outcomes, result.output
    record, frames = result.samples["long.avi"]
    assert record.num_frames == record.decoded_frames == len(frames) == 14_400
    assert record.fps == 2
    assert result.worker_mb < LONG_WORKER_MB
    source_small = read_independently(long, (24, 18)).frames_rgb_THWC
    for k in range(
        0, 14_400, 997
    ):  # a pattern that repeats itself after some hundred pictures: near ones are enough to tell them apart
        small = cv2.resize(frames[k], (24, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        near = range(max(0, k - 20), min(14_400, k + 20))
        errors = [((source_small[i].astype(np.float32) - small) ** 2).mean() for i in near]
        assert near[int(np.argmin(errors))] == k
