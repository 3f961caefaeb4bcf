"""Time the training loader against its decoder alone and against a baseline, on the same clips, in one run.

    python -m jobs.bench loader --data s3://BUCKET/PREFIX --json loader.json
    python -m jobs.bench loader --data file:///FOLDER --json loader.json --modalities rgb flow --threads 8

loader     ours, as in a training run: order, ranged GETs, checksums, decoding, batches
ceiling    its decoder alone: the same batches, their bytes and plans ready in memory
dali       DALI alone, in the same way, where --loader is another decoder
baseline   webdataset over the same tars, PyAV, numpy and torch's resize in a DataLoader with --threads worker
           processes; the same frames, crops and flips, and the same values (checked on its first batch: at most 1.25 of
           255 codes off)
shortcut   the baseline with PyAV's default colour conversion, which is faster and not the same values
fetch      ranged GETs and checksums without decoding, by GETs in flight: the limit of one rank's Python side
step       on a GPU: a training step of the full-size CRN fed by the loader, against the same step on a batch that is
           there

All take training clips of epoch 0, --threads threads or processes, and turns: loader, ceiling, ..., loader, ceiling,
... Only the steady state
counts: warm-up and the end of each pass are left out. Small data sets are read several times a pass.

Writes   --json: hardware, versions, commit, data set digest, settings, and loader_clips_per_s, ceiling_clips_per_s,
         baseline_clips_per_s (the best rounds; all of them in "rounds"), ratio_to_ceiling, ratio_to_baseline,
         cpu_ms_per_clip and ratio_by_cpu (which other load hardly changes), decode_share (of the ceiling's time, in the
         video decoder itself), time_shares, fetch_only, cpu_ms_per_get, gpu_wait_share.
Exit     0 ratio_to_ceiling >= 0.90, ratio_to_baseline >= 1.5 and gpu_wait_share < 0.05, as far as measured; 1 one of
         them does not hold; 2 refused before any work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress

from jobs.bench.loader.report import missed, rates, show
from jobs.bench.loader.rounds import InMemory, interleave, time_baseline, time_fetching, time_ours
from jobs.bench.loader.workload import Workload, codes_off, make_workload
from jobs.bench.machine import finish, hardware, versions
from pipeline.common.cli import errors, parse
from pipeline.config.base import as_dict, require
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CHANNELS, Modality
from pipeline.config.version import code_version
from pipeline.data.decoding.factory import backend, rank_cores, resolve_device
from pipeline.data.index import check_modalities
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sample import ONLINE_DIFF
from pipeline.errors import ReciprocalError
from pipeline.storage import open_storage

_FETCH_REQUESTS = 400
_LIBRARIES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "webdataset", "boto3", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderArgs:
    """Time the training loader."""

    data: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER, as jobs.preprocess wrote it."""
    json: Path
    """File for the result."""
    split: str = "train"
    modalities: tuple[Modality, ...] = ("rgb", "flow")
    batch_size: int = 16
    """Clips of a batch."""
    num_frames: int = 10
    """T: frames of a clip."""
    stride: int = 1
    stack: int = 1
    """Motion frames joined at each step."""
    crop: int = 224
    threads: int = 0
    """Our decoder's threads, and the baseline's worker processes; 0: the cores this process may use."""
    clips: int = 256
    """Clips that each contender decodes in one round, warm-up not counted."""
    rounds: int = 3
    """Turns of each contender; the best counts."""
    fetch_depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """GETs in flight to measure fetching alone with."""
    steps: int = 30
    """Training steps to measure the GPU's waiting over."""
    loader: Literal["auto", "dali", "ffmpeg", "reference"] = "auto"
    """Our decoder, as data.decoder."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    skip: tuple[Literal["baseline", "shortcut", "dali", "fetch", "step"], ...] = ()
    """What is not measured."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "clips", "rounds", "steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.threads >= 0, "threads", self.threads, "must be 0 (all cores) or more")
        require(all(d >= 1 for d in self.fetch_depths), "fetch_depths", self.fetch_depths, "each must be at least 1")
        require(self.json.parent.is_dir(), "json", str(self.json), "its folder does not exist; make it first")
        require(not self.json.is_dir(), "json", str(self.json), "is a folder; give a file in it")

    def clip(self) -> ClipConfig:
        """As a training run takes it."""
        return ClipConfig(num_frames=self.num_frames, stride=self.stride, stack=self.stack, crop=self.crop)


def run(arguments: Sequence[str]) -> int:
    """The subcommand: parse, measure, print, write; returns the exit code."""
    args = parse(LoaderArgs, args=arguments, prog="python -m jobs.bench loader", description=__doc__)
    workload = _workload(args)
    torch.set_num_threads(workload.threads)
    result = measure(args, workload)
    return finish(result, args.json, show)


def _workload(args: LoaderArgs) -> Workload:
    """Everything that can be refused is refused here."""
    needing_webdataset = {"baseline", "shortcut"} - set(args.skip)
    if needing_webdataset:
        require(
            importlib.util.find_spec("webdataset") is not None,
            "skip",
            args.skip,
            "webdataset is not installed: pip install 'reciprocal[bench]' (make setup does), or skip"
            f" {' '.join(sorted(needing_webdataset))}",
        )
        require(
            ONLINE_DIFF not in args.modalities,
            "modalities",
            args.modalities,
            f"the baseline reads what is stored: use diff, or skip {' '.join(sorted(needing_webdataset))}",
        )
    device, threads = resolve_device(args.device), args.threads or rank_cores()
    storage = open_storage(args.data)
    storage.probe(write=False)
    manifest = read_manifest(storage)
    check_modalities(manifest, args.modalities)
    require(
        manifest.split_sizes().get(args.split, 0) > 0,
        "split",
        args.split,
        f"use one of the data set's: {', '.join(manifest.split_sizes())}",
    )
    spare = 0
    if needing_webdataset:
        from jobs.bench.loader.baseline import SHUFFLE

        spare = SHUFFLE
        _check_shared_memory(args, threads)
    data = DataConfig(batch_size=args.batch_size, decode_threads=threads, damaged_budget=0, decoder=args.loader)
    workload = make_workload(
        storage,
        manifest,
        args.split,
        args.modalities,
        data=data,
        clip=args.clip(),
        seed=args.seed,
        clips=args.clips,
        spare=spare,
        device=device,
    )
    if "step" not in args.skip and device == "gpu":
        from jobs.bench.loader.step import full_size

        full_size(args.modalities, args.num_frames, args.stack)
    return workload


def _check_shared_memory(args: LoaderArgs, threads: int) -> None:
    from jobs.bench.loader.baseline import buffered_bytes

    channels = sum(CHANNELS[m] * (1 if m == "rgb" else args.stack) for m in args.modalities)
    needed = buffered_bytes(4 * args.batch_size * args.num_frames * channels * args.crop**2, threads)
    with contextlib.suppress(FileNotFoundError):
        room = os.statvfs("/dev/shm")
        free = room.f_bavail * room.f_frsize
        fix = (
            f"{threads} worker processes of the baseline need {needed >> 20} MB of shared memory, /dev/shm has"
            f" {free >> 20} MB free: use a smaller batch or fewer threads, or --skip baseline shortcut"
        )
        require(needed <= free, "batch_size", args.batch_size, fix)


def measure(args: LoaderArgs, workload: Workload) -> dict[str, Any]:
    """All contenders in turns; the result as it is written.

    Raises:
        ReciprocalError: the baseline gives other values than the reference loader, or skips or repeats samples.
    """
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions(*_LIBRARIES),
        "commit": code_version(),
        "data": workload.storage.uri,
        "digest": workload.manifest.digest,
        "modalities": list(args.modalities),
        "clip": as_dict(workload.clip),
        "batch_size": args.batch_size,
        "threads": workload.threads,
        "device": workload.device,
        "decoder": backend(workload.data, workload.device),
        "samples": len(workload.index) // workload.repeats,
        "samples_read_per_pass": len(workload.index),
        "bytes_per_clip": float(workload.index.members[..., 1].sum(1).mean()),
    }
    with contextlib.ExitStack() as stack, Progress(console=errors, transient=True) as bar:
        ours, memory = stack.enter_context(workload.loader()), InMemory(workload)
        off = {"loader": _Off(workload)}
        decoder = stack.enter_context(contextlib.closing(memory.decoder(args.loader)))
        contenders = {
            "loader": functools.partial(time_ours, ours, workload, off["loader"]),
            "ceiling": functools.partial(memory.time, decoder),
        }
        if "dali" not in args.skip and backend(workload.data, workload.device) != "dali":
            contenders["dali"] = functools.partial(
                memory.time, stack.enter_context(contextlib.closing(memory.decoder("dali")))
            )
        for name in ("baseline", "shortcut"):
            if name not in args.skip:
                from jobs.bench.loader.baseline import TOLERANCE_CODES, baseline_loader

                exact = name == "baseline"
                baseline = stack.enter_context(contextlib.closing(baseline_loader(workload, exact_colour=exact)))
                off[name] = _Off(workload, TOLERANCE_CODES if exact else None)
                contenders[name] = functools.partial(time_baseline, baseline, workload, off[name])
        task = bar.add_task("rounds", total=args.rounds * len(contenders))
        result |= rates(interleave(contenders, args.rounds, lambda name: bar.advance(task)))
        result["codes_off"] = {name: worst.worst for name, worst in off.items()}
        result["decode_share"] = decoder.decode_share(memory.rows(0))
        if "step" not in args.skip and workload.device == "gpu":
            result |= _step(args, workload)
        if "fetch" not in args.skip:
            result |= _fetching(args, workload)
    return result | {"missed": missed(result)}


class _Off:
    """Holds a contender's first batch against the reference loader, once."""

    def __init__(self, workload: Workload, tolerance_codes: float | None = None) -> None:
        self._workload, self._tolerance = workload, tolerance_codes
        self.worst: dict[str, float] = {}

    def __call__(self, batch: dict[str, Any]) -> None:
        if self.worst:
            return
        self.worst = codes_off(self._workload, batch)
        if self._tolerance is not None and max(self.worst.values()) > self._tolerance:
            raise ReciprocalError(
                f"the baseline's clips differ from the reference loader's by {self.worst} codes, {self._tolerance} are"
                " allowed: its speed means nothing"
            )


def _fetching(args: LoaderArgs, workload: Workload) -> dict[str, Any]:
    measured = {str(depth): time_fetching(workload, depth, _FETCH_REQUESTS) for depth in args.fetch_depths}
    best = max(measured.values(), key=lambda m: m["clips_per_s"])
    return {
        "fetch_only": measured,
        "fetch_only_clips_per_s": best["clips_per_s"],
        "cpu_ms_per_get": best["cpu_ms_per_get"],
    }


def _step(args: LoaderArgs, workload: Workload) -> dict[str, Any]:
    from jobs.bench.loader.step import full_size, time_steps

    with workload.loader() as loader:
        times = time_steps(
            loader,
            full_size(args.modalities, args.num_frames, args.stack),
            num_classes=len(workload.manifest.classes),
            crop=args.crop,
            steps=args.steps,
            device=torch.device("cuda", 0),
        )
    return {"gpu_wait_share": times.wait_share, "step": dataclasses.asdict(times)}
