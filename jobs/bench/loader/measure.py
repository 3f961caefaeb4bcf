"""All contenders of ``jobs.bench loader`` in turns, and the result as it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import torch
from rich.progress import Progress

from jobs.bench.loader.arguments import LoaderArgs
from jobs.bench.loader.report import missed, rates
from jobs.bench.loader.rounds import InMemory, interleave, time_baseline, time_fetching, time_ours
from jobs.bench.loader.workload import Workload, codes_off
from jobs.bench.machine import hardware, versions
from pipeline.common.cli import errors
from pipeline.config.base import as_dict
from pipeline.config.version import code_version
from pipeline.data.decoding.factory import backend
from pipeline.errors import ReciprocalError

_FETCH_REQUESTS = 400
_LIBRARIES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "webdataset", "boto3", "numpy")


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
