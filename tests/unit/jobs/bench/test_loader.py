"""The bench of the loader: an opponent that is right, figures that add up, refusals before any work."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jobs.bench.command import main
from jobs.bench.loader import baseline as baseline_module
from jobs.bench.loader import command as bench_loader
from jobs.bench.loader import tars as tars_module
from jobs.bench.loader.baseline import (
    TOLERANCE_CODES,
    BaselineLoader,
    ToClip,
    decode_from_keyframe,
)
from jobs.bench.loader.report import missed
from jobs.bench.loader.rounds import Measurement, interleave, time_baseline, time_fetching
from jobs.bench.loader.step import FeedingTimes, full_size, time_steps
from jobs.bench.loader.tars import open_object, shard_urls
from jobs.bench.loader.workload import Workload, check_keys, codes_off, make_workload
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.data.batch import Batch
from pipeline.data.decoding.reference import decode_frames
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ConfigError, ManifestError, ReciprocalError, UserError
from pipeline.storage import open_storage
from preprocessing.media.encode import VideoCodec
from tests.support.encoding import encode_gray, encode_rgb
from tests.support.stored_set import flow_codes, pictures

MODALITIES = ("rgb", "flow", "diff")
CLIP = ClipConfig(num_frames=4, crop=24)
try:
    HAVE_DALI = importlib.util.find_spec("nvidia.dali") is not None
except ModuleNotFoundError:
    HAVE_DALI = False
needs_dali = pytest.mark.skipif(not HAVE_DALI, reason="DALI is not installed")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def workload_of(uri: str, clip: ClipConfig = CLIP, modalities: Sequence[str] = MODALITIES, **changes: Any) -> Workload:
    storage = open_storage(uri)
    data = DataConfig(batch_size=4, decode_threads=changes.pop("workers", 1), damaged_budget=0)
    options: dict[str, Any] = {
        "clip": clip,
        "data": data,
        "seed": 3,
        "clips": 8,
        "spare": 0,
        "device": "cpu",
        **changes,
    }
    return make_workload(storage, read_manifest(storage), "train", modalities, **options)


def baseline_of(workload: Workload, urls: Sequence[str] | None = None, **changes: Any) -> BaselineLoader:
    to_clip = ToClip(workload.modalities, workload.clip, workload.index.flow_bound_px, workload.seed, **changes)
    urls = shard_urls(workload.storage, workload.tars) if urls is None else urls
    return BaselineLoader(urls, to_clip, batch_size=workload.batch_size, workers=0, seed=workload.seed)


@pytest.mark.parametrize(
    "clip",
    [
        CLIP,
        dataclasses.replace(CLIP, norm="caffe", stack=3, stride=2, flow_std=2.0),
        dataclasses.replace(CLIP, num_frames=12, norm="inception", crop=40),
    ],
    ids=["plain", "caffe-stacked", "short-videos-enlarged"],
)
@pytest.mark.slow
def test_the_baseline_gives_the_reference_loaders_values(tiny_set, clip):
    workload = workload_of(tiny_set, clip)
    batches = list(baseline_of(workload))
    for batch in batches:
        off = codes_off(workload, batch)
        assert set(off) == set(MODALITIES)
        assert max(off.values()) <= TOLERANCE_CODES
        assert {tuple(batch[m].shape) for m in MODALITIES} == {
            (len(batch["key"]), clip.num_frames, c, clip.crop, clip.crop) for c in (3, 2 * clip.stack, 3 * clip.stack)
        }
    assert Counter(k for b in batches for k in b["key"]) == Counter(
        workload.index.key(i) for i in range(len(workload.index))
    )


def test_a_baseline_with_other_values_is_refused(tiny_set):
    workload = workload_of(tiny_set)
    batch = next(iter(baseline_of(workload)))
    assert codes_off(workload, {**batch, "flow": -batch["flow"]})["flow"] > 2 * TOLERANCE_CODES
    assert codes_off(workload, {**batch, "rgb": batch["rgb"].roll(1, dims=1)})["rgb"] > 2 * TOLERANCE_CODES
    assert codes_off(workload, {**batch, "diff": batch["diff"].flip(-1)})["diff"] > 2 * TOLERANCE_CODES
    other_seed = dataclasses.replace(workload, seed=4)
    assert codes_off(other_seed, batch)["rgb"] > 2 * TOLERANCE_CODES


@pytest.mark.parametrize("wanted", [(0, 1, 2), (14, 15, 16, 17), (16,), (31, 33, 35, 39), (38, 39, 39, 39)])
def test_seeking_finds_the_frames_that_decoding_from_the_start_finds(wanted):
    frames = decode_from_keyframe(encode_rgb(pictures(5, frames=40), 29.97, VideoCodec()), wanted)
    codes = encode_gray(flow_codes(40), 30.0, VideoCodec())
    rgb = encode_rgb(pictures(5, frames=40), 29.97, VideoCodec())
    expected = decode_frames(rgb, "rgb", wanted)
    maker = ToClip(("rgb",), CLIP, 20.0, 0)
    box = SimpleNamespace(top=0, left=0, height=expected.shape[1], width=expected.shape[2])
    np.testing.assert_array_equal(maker._colours(frames, box), expected)  # type: ignore[arg-type]
    halves = baseline_module._luma_halves(decode_from_keyframe(codes, wanted), box, box.height)
    np.testing.assert_array_equal(
        halves.reshape(len(wanted), 2 * box.height, box.width), decode_frames(codes, "flow", wanted)
    )


def test_a_pass_that_skips_or_repeats_samples_is_an_error(tiny_set):
    workload = workload_of(tiny_set, modalities=("rgb",), clip=dataclasses.replace(CLIP, num_frames=1))
    urls = shard_urls(workload.storage, workload.tars)
    with pytest.raises(
        ReciprocalError, match=rf"skipped {workload.manifest.shards[0].num_samples} samples and repeated 0"
    ):
        time_baseline(baseline_of(workload, urls[1:]), workload, lambda batch: None)
    with pytest.raises(
        ReciprocalError, match=rf"skipped 0 samples and repeated {workload.manifest.shards[0].num_samples}"
    ):
        time_baseline(baseline_of(workload, [*urls, urls[0]]), workload, lambda batch: None)
    keys = [workload.index.key(i) for i in range(len(workload.index))]
    check_keys(keys[::-1], workload)
    with pytest.raises(ReciprocalError, match="skipped 1 samples and repeated 1"):
        check_keys([*keys[:-1], keys[0]], workload)


def test_only_the_middle_of_a_pass_counts(tiny_set):
    workload = workload_of(tiny_set, modalities=("rgb",))
    keys = [workload.index.key(i) for i in range(len(workload.index))]
    batches = [{"key": keys[k : k + 4]} for k in range(0, len(keys), 4)]
    assert workload.steps == 2

    def slow_outside() -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(batches):
            time.sleep({1: 0.3, 2: 0.02, 3: 0.02, 4: 0.3}.get(number, 0.0))
            yield batch

    seen: list[Any] = []
    measured = time_baseline(slow_outside(), workload, seen.append)
    assert (measured.clips, seen) == (8, [batches[0]])
    assert 0.04 <= measured.seconds < 0.3


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_every_worker_has_work_beyond_what_is_measured(tiny_set, workers):
    workload = workload_of(tiny_set, workers=workers, clips=50, spare=6)
    sizes = {f"{s.path}.tar": s.num_samples for s in workload.manifest.shards}
    assert workload.steps * 4 >= 50
    assert workload.steps % workers == 0
    for w in range(workers):
        assert sum(sizes[tar] for tar in workload.tars[w::workers]) >= (workload.steps / workers + 3) * 4 + 6
    assert set(Counter(workload.index.key(i) for i in range(len(workload.index))).values()) == {workload.repeats}
    assert sum(sizes[tar] for tar in workload.tars) == len(workload.index)
    assert len(workload.batches()) * 4 < len(workload.index)


def test_objects_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tars_module, "_PART_BYTES", 1000)
    data = os.urandom(4321)
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "empty.tar").write_bytes(b"")
    with open_object(f"file://{tmp_path}/a.tar") as stream:
        assert stream.read(700) + stream.read(1) + stream.read() == data
    with open_object(f"file://{tmp_path}/empty.tar") as stream:
        assert stream.read() == b""


def test_fetching_counts_requests_and_bytes(tiny_set):
    workload = workload_of(tiny_set)
    found = time_fetching(workload, 4, 30)
    mean_bytes = 1e6 * found["mb_per_s"] / found["clips_per_s"]
    assert (
        workload.index.members[..., 1].sum(1).min()
        <= mean_bytes
        <= workload.index.members[..., 1].sum(1).max() + 3 * 2048
    )  # tar headers between members
    assert 0 < found["cpu_ms_per_get"] < 50


def test_contenders_are_interleaved():
    calls: list[str] = []

    def contender(name: str) -> Any:
        return lambda: calls.append(name) or Measurement(10, len(calls), 1.0)

    measurements = interleave({"a": contender("a"), "b": contender("b")}, 2, lambda name: None)
    assert calls == ["a", "b", "a", "b"]
    assert [w.clips_per_s for w in measurements["b"]] == [5.0, 2.5]


@needs_dali
@pytest.mark.slow
def test_the_results_ratios_and_shares_add_up(tiny_set, tmp_path, capsys):
    out = tmp_path / "loader.json"
    arguments = [
        "--clips",
        "12",
        "--rounds",
        "2",
        "--batch-size",
        "3",
        "--num-frames",
        "3",
        "--crop",
        "24",
        "--threads",
        "1",
        "--fetch-depths",
        "1",
        "2",
        "--skip",
        "shortcut",
    ]
    code = main(["loader", "--data", tiny_set, "--json", str(out), *arguments])
    result = json.loads(out.read_text())
    for name in ("ceiling", "dali", "baseline"):
        assert result[f"ratio_to_{name}"] == pytest.approx(result["loader_clips_per_s"] / result[f"{name}_clips_per_s"])
    for name, taken in result["rounds"].items():
        assert [w["clips"] for w in taken] == [12, 12]
        assert all(w["clips_per_s"] == pytest.approx(12 / w["seconds"]) for w in taken)
        assert result[f"{name}_clips_per_s"] == max(w["clips_per_s"] for w in taken)
        assert result["median_clips_per_s"][name] == pytest.approx(sum(w["clips_per_s"] for w in taken) / 2)
        assert result["cpu_ms_per_clip"][name] == pytest.approx(min(1000 * w["cpu_s"] / 12 for w in taken))
        assert result["ratio_by_cpu"][name] == pytest.approx(
            result["cpu_ms_per_clip"][name] / result["cpu_ms_per_clip"]["loader"]
        )
    assert set(result["rounds"]) == {"loader", "ceiling", "dali", "baseline"}
    assert result["decoder"] == "ffmpeg"
    assert 0 < result["decode_share"] < 1
    assert set(result["codes_off"]) == {"loader", "baseline"}
    assert code == (1 if result["missed"] else 0)
    assert bool(result["missed"]) == (result["ratio_to_ceiling"] < 0.9 or result["ratio_to_baseline"] < 1.5)
    assert max(result["codes_off"]["baseline"].values()) <= TOLERANCE_CODES
    assert result["digest"] == read_manifest(open_storage(tiny_set)).digest
    assert (result["threads"], result["batch_size"], result["modalities"], result["samples"]) == (
        1,
        3,
        ["rgb", "flow"],
        20,
    )
    assert 0.5 < result["requests_per_clip"] < 2
    assert result["bytes_per_clip"] > 500
    assert set(result["fetch_only"]) == {"1", "2"}
    assert result["fetch_only_clips_per_s"] == max(e["clips_per_s"] for e in result["fetch_only"].values())
    assert result["cpu_ms_per_get"] > 0
    assert "gpu_wait_share" not in result
    assert {"fetch_wait", "decode", "consumer_wait"} <= set(result["time_shares"])
    assert all(-0.01 <= share < 3 for share in result["time_shares"].values())
    assert result["commit"]
    assert result["versions"]["webdataset"]
    assert result["hardware"]["cores"]
    shown = capsys.readouterr()
    assert "ceiling" in shown.out
    assert all(line in shown.err for line in result["missed"])


def test_a_ratio_below_its_bar_is_named():
    good = {"ratio_to_ceiling": 0.9, "ratio_to_baseline": 1.5, "gpu_wait_share": 0.049}
    assert missed(good) == []
    assert missed({}) == []
    for name, value, shown in (
        ("ratio_to_ceiling", 0.899, "ratio_to_ceiling 0.899"),
        ("ratio_to_baseline", 1.499, "ratio_to_baseline 1.499"),
        ("gpu_wait_share", 0.05, "gpu_wait_share 0.050"),
    ):
        (line,) = missed({**good, name: value})
        assert line.startswith(shown)


def test_refusals_come_before_any_work_and_name_what_is_wrong(tiny_set, tmp_path, monkeypatch):
    def refused(kind: type[UserError], match: str, *changes: str, data: str = tiny_set) -> None:
        with pytest.raises(kind, match=match):
            main(["loader", "--data", data, "--json", str(tmp_path / "a.json"), "--threads", "1", *changes])

    monkeypatch.setattr(bench_loader, "measure", lambda *_: pytest.fail("work began"))
    refused(ConfigError, "uri = 'http://x'", data="http://x")
    refused(ManifestError, "manifest.json", data=f"file://{tmp_path}")
    refused(UserError, "sound", "--modalities", "rgb", "sound")
    refused(ConfigError, "split = 'dev'.*train, val, test", "--split", "dev")
    refused(ConfigError, "json = .*folder does not exist", "--json", str(tmp_path / "no" / "a.json"))
    refused(ConfigError, "batch_size = 0", "--batch-size", "0")
    refused(ConfigError, "fetch_depths", "--fetch-depths", "4", "0")
    refused(ConfigError, "clip.crop = 8", "--crop", "8")
    refused(ConfigError, "device = 'gpu'", "--device", "gpu")
    refused(ConfigError, "modalities = .*use diff, or skip baseline shortcut", "--modalities", "diff-online")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=100, f_frsize=4096))
    refused(ConfigError, r"batch_size = 16: .*/dev/shm has 0 MB")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(ConfigError, "skip.*webdataset is not installed")


def test_a_modality_that_is_not_stored_is_named(tiny_set, tmp_path):
    storage, manifest = open_storage(f"file://{tmp_path}"), read_manifest(open_storage(tiny_set))
    storage.write("manifest.json", dataclasses.replace(manifest, modalities=("rgb",)).to_json())
    with pytest.raises(ManifestError, match="stores rgb; asked for rgb, flow"):
        main(["loader", "--data", storage.uri, "--json", str(tmp_path / "a.json"), "--threads", "1"])


class _Paced:
    """A loader that takes its time."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def iter_epoch(self, epoch: int) -> Iterator[Batch]:
        torch.manual_seed(epoch)
        for step in range(3):
            time.sleep(self.pause_s)
            inputs = {"rgb": torch.randn(2, 3, 3, 32, 32), "flow": torch.randn(2, 3, 2, 32, 32)}
            weights = torch.tensor([1.0, 0.0 if step == 2 else 1.0])  # the epoch's last batch is not full
            yield Batch(inputs, torch.tensor([0, 1]), weights, ("a", "b"), epoch, step)


@pytest.mark.slow
def test_the_share_of_a_step_that_waits():
    model = CRNConfig(width=0.25, backbone_stages=3, hidden=8, adapted=8, num_steps=3)

    times = time_steps(_Paced(0.15), model, num_classes=3, crop=32, steps=4, device=torch.device("cpu"))
    assert (times.steps, times.batch_size) == (4, 2)
    assert times.fed_s > times.resident_s + 0.1
    assert (FeedingTimes(0.3, 0.4, 9, 2).wait_share, FeedingTimes(0.4, 0.3, 9, 2).wait_share) == (
        pytest.approx(0.25),
        0.0,
    )


def test_the_full_size_step_is_the_recipes():
    two, one = full_size(("rgb", "flow"), 10, 5), full_size(("diff",), 8, 1)
    assert (two.width, two.hidden, two.backbone_stages, two.partner, two.stack) == (1.0, 512, 5, "other", 5)
    assert (one.modalities, one.partner, one.num_steps) == (("diff",), "off", 8)
