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

All take training clips of epoch 0, --threads threads or processes, in turns: loader, ceiling, ..., loader, ceiling,
... Only the steady state counts: warm-up and the end of each pass are left out. Small data sets are read several
times a pass.

Writes   --json: hardware, versions, commit, data set digest, settings, and loader_clips_per_s, ceiling_clips_per_s,
         baseline_clips_per_s (the best rounds; all of them in "rounds"), ratio_to_ceiling, ratio_to_baseline,
         cpu_ms_per_clip and ratio_by_cpu (which other load hardly changes), decode_share (of the ceiling's time, in the
         video decoder itself), time_shares, fetch_only, cpu_ms_per_get, gpu_wait_share.
Exit     0 ratio_to_ceiling >= 0.90, ratio_to_baseline >= 1.5 and gpu_wait_share < 0.05, as far as measured; 1 one of
         them does not hold; 2 refused before any work.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Sequence

import torch

from jobs.bench.loader.arguments import LoaderArgs
from jobs.bench.loader.measure import measure
from jobs.bench.loader.report import show
from jobs.bench.loader.workload import Workload, make_workload
from jobs.bench.machine import finish
from pipeline.common.cli import parse
from pipeline.config.base import require
from pipeline.config.data import DataConfig
from pipeline.config.model import CHANNELS
from pipeline.data.decoding.factory import rank_cores, resolve_device
from pipeline.data.index import check_modalities
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sample import ONLINE_DIFF
from pipeline.storage import open_storage


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
