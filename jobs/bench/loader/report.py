"""What ``jobs.bench loader`` says of its measurements: rates, ratios, whether they hold, and a table."""

from __future__ import annotations

import statistics
from typing import Any

from rich.table import Table

from jobs.bench.loader.rounds import Measurement
from pipeline.common.cli import console

CEILING_BAR, BASELINE_BAR, WAIT_BAR = 0.90, 1.5, 0.05


def rates(measurements: dict[str, list[Measurement]]) -> dict[str, Any]:
    """Every contender's best measurement (other load only slows one down), the loader's ratios to them, and where its
    time went.
    """
    best = {name: max(w.clips_per_s for w in taken) for name, taken in measurements.items()}
    figures: dict[str, Any] = {f"{name}_clips_per_s": rate for name, rate in best.items()}
    figures |= {f"ratio_to_{name}": best["loader"] / rate for name, rate in best.items() if name != "loader"}
    cpu_ms = {name: 1000 * min(w.cpu_s / w.clips for w in taken) for name, taken in measurements.items()}
    figures["median_clips_per_s"] = {
        name: statistics.median(w.clips_per_s for w in taken) for name, taken in measurements.items()
    }
    figures["cpu_ms_per_clip"], figures["ratio_by_cpu"] = (
        cpu_ms,
        {name: ms / cpu_ms["loader"] for name, ms in cpu_ms.items()},
    )
    figures["rounds"] = {
        name: [{"clips": w.clips, "seconds": w.seconds, "clips_per_s": w.clips_per_s, "cpu_s": w.cpu_s} for w in taken]
        for name, taken in measurements.items()
    }
    ours = measurements["loader"]
    seconds, clips = sum(w.seconds for w in ours), sum(w.clips for w in ours)
    figures["time_shares"] = {
        name.removesuffix("_s"): sum(w.waits[name] for w in ours) / seconds
        for name in ours[0].waits
        if name.endswith("_s")
    }
    figures["requests_per_clip"] = sum(w.waits["requests"] for w in ours) / clips
    return figures


def missed(result: dict[str, Any]) -> list[str]:
    """What of a result does not hold, one line each."""
    lines = []
    for name, bar in (("ratio_to_ceiling", CEILING_BAR), ("ratio_to_baseline", BASELINE_BAR)):
        if name in result and result[name] < bar:
            lines.append(f"{name} {result[name]:.3f} is below {bar}")
    if result.get("gpu_wait_share", 0.0) >= WAIT_BAR:
        lines.append(f"gpu_wait_share {result['gpu_wait_share']:.3f} is not below {WAIT_BAR}")
    return lines


def show(result: dict[str, Any]) -> None:
    """Print a result."""
    where = result["hardware"]["gpu"] if result["device"] == "gpu" else result["hardware"]["cpu"]
    clip = result["clip"]
    console.print(
        f"{result['data']}: {'+'.join(result['modalities'])}, {clip['num_frames']} frames, crop {clip['crop']}, batches"
        f" of {result['batch_size']}; {where}, {result['threads']} threads",
        markup=False,
    )
    table = Table("", "clips/s", "rounds", "CPU ms/clip", "ours is", "by CPU", box=None, padding=(0, 2, 0, 0))
    for name, taken in result["rounds"].items():
        ratio = f"{result[f'ratio_to_{name}']:.2f} times" if name != "loader" else ""
        table.add_row(
            name,
            f"{result[f'{name}_clips_per_s']:.1f}",
            " ".join(f"{w['clips_per_s']:.1f}" for w in taken),
            f"{result['cpu_ms_per_clip'][name]:.1f}",
            ratio,
            f"{result['ratio_by_cpu'][name]:.2f}" if ratio else "",
        )
    console.print(table)
    console.print(
        f"the ceiling's time: {result['decode_share']:.0%} in the video decoder itself; off the reference by (codes): "
        + "; ".join(
            f"{name} " + ", ".join(f"{m} {x:.2f}" for m, x in off.items()) for name, off in result["codes_off"].items()
        ),
        markup=False,
    )
    console.print(
        "time of ours: "
        + ", ".join(f"{name} {share:.0%}" for name, share in result["time_shares"].items())
        + f"; {result['bytes_per_clip'] / 1e3:.0f} kB a clip",
        markup=False,
    )
    for depth, entry in result.get("fetch_only", {}).items():
        console.print(
            f"fetching alone, {depth} in flight: {entry['clips_per_s']:.0f} clips/s, {entry['mb_per_s']:.0f} MB/s,"
            f" {entry['cpu_ms_per_get']:.2f} ms of CPU a GET",
            markup=False,
        )
    if "step" in result:
        console.print(
            f"training step {1000 * result['step']['resident_s']:.0f} ms, fed by the loader"
            f" {1000 * result['step']['fed_s']:.0f} ms: the GPU waits {result['gpu_wait_share']:.1%}",
            markup=False,
        )
