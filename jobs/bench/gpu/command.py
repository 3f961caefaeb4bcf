"""Everything that only a GPU can tell, in a few minutes: each part in a process of its own, its rows printed and
written at once, a table at the end.

    python -m jobs.bench gpu --minutes 8 --json gpu.json
    python -m jobs.bench.gpu --minutes 8 --json gpu.json --flows flows.npz    # needs torch, Triton, numpy, OpenCV, rich
    python -m jobs.bench.gpu --json gpu.json --parts card tvl1 --minutes 2
    python -m jobs.bench.gpu --json gpu.json --tiny --device cpu              # tries the code, measures nothing

A part that hangs costs its own time only; one that crashes goes on in another process behind the measurement that did
it. Time that a part leaves goes to those after it.

Writes   --json: a list of rows, each with its part; beside it the log of each part, FILE.PART.log.
Exit     0 every part ended by itself without an error in its rows; 1 one did not; 2 refused before any work.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rich.table import Table

from jobs.bench.gpu.settings import Row
from jobs.recipes.listing import print_wide
from pipeline.common.cli import console, errors

PARTS = {
    "card": 5,
    "tests": 10,
    "tvl1": 9,
    "mrst": 8,
    "crn": 8,
    "sums": 3,
    "inference": 3,
    "stream": 3,
    "compiled": 6,
}
"""The parts in order and their shares of the time; each is a module of this package."""
ROW = "row: "
_GRACE_S = 10.0  # between a part's last measurement and its end by force


def run(arguments: Sequence[str]) -> int:
    """The subcommand; returns the exit code."""
    args = _parse(arguments)
    file: Path = args.json
    rows: list[Row] = []
    end_s = time.monotonic() + 60 * args.minutes
    for place, part in enumerate(args.parts):
        share = PARTS[part] / sum(PARTS[p] for p in args.parts[place:])
        limit_s = max(0.0, end_s - time.monotonic()) * share
        began_s = time.monotonic()
        for row in _run_part(part, limit_s, args):
            rows.append({"part": part, **row})
            file.write_text(json.dumps(rows, indent=1) + "\n")
            console.print(f"{part}: {_line(row)}")
        console.print(f"{part}: took {time.monotonic() - began_s:.1f} s of {limit_s:.1f} s")
    _show(rows)
    return 1 if any("error" in row for row in rows) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m jobs.bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="file for the rows")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[p for p in PARTS if p != "compiled"])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the code")
    parser.add_argument("--tiny", action="store_true", help="small networks and pictures")
    parser.add_argument("--flows", type=Path, help="stored pairs and flows (python -m jobs.bench.gpu.store_flows)")
    args = parser.parse_args(arguments)
    if not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: its folder does not exist; make it first")
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes}: must be more than 0")
    if args.flows is not None and not args.flows.is_file():
        parser.error(f"--flows {args.flows}: there is no such file; python -m jobs.bench.gpu.store_flows makes one")
    return args


def _run_part(part: str, limit_s: float, args: argparse.Namespace) -> Iterator[Row]:
    """Rows of a part as they come; at last one with an error if it fails or does not end."""
    log = args.json.with_name(f"{args.json.name}.{part}.log")
    end_s = time.monotonic() + max(limit_s, 1.0)
    until_s = end_s - min(_GRACE_S, 0.2 * limit_s)
    log.write_text("")
    taken, crashed = 0, True
    while crashed and time.monotonic() < until_s:
        before, crashed = taken, False
        for row in _run_process(part, end_s, until_s, taken, log, args):
            taken += "took_s" in row or "skipped" in row
            crashed = row.pop("crashed", False)
            yield row
        crashed = crashed and taken > before


def _run_process(
    part: str, end_s: float, until_s: float, skip: int, log: Path, args: argparse.Namespace
) -> Iterator[Row]:
    """A part's rows behind the first ``skip`` measurements; at last one with an error, ``crashed`` if it ended so."""
    limit_s = end_s - time.monotonic()
    words = ["--device", args.device, "--until", f"{until_s:.1f}", "--logs", str(args.json.absolute().parent)]
    words += ["--skip", str(skip), *(["--tiny"] if args.tiny else [])]
    words += ["--flows", str(args.flows)] if args.flows else []
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "jobs.bench.gpu.part", part, *words],
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            start_new_session=True,
        )
        try:
            yield from _read(process, end_s, out)
            if process.poll() is None:
                yield {"what": part, "error": f"not ended after {limit_s:.0f} s: killed"}
            elif process.returncode:
                why = f"exit code {process.returncode}: {_last_line(log)}"
                yield {"what": part, "error": why, "crashed": True}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(_GRACE_S)


def _read(process: subprocess.Popen[str], end_s: float, out: IO[str]) -> Iterator[Row]:
    """A process's rows until it ends or the time is over; its other lines go to ``out``."""
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while (left_s := end_s - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left_s)
        except queue.Empty:
            return
        if line is None:
            process.wait(_GRACE_S)
            return
        if line.startswith(ROW):
            yield json.loads(line.removeprefix(ROW))
        else:
            out.write(line)


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1][:300]


def _line(row: Row) -> str:
    return f"{row['what']}: " + ", ".join(
        f"{key} {_figure(value)}" for key, value in row.items() if key not in ("what", "top")
    )


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:2000]


def _show(rows: list[Row]) -> None:
    columns = ("ms", "kernel_ms", "launches", "waits", "clips_per_s", "pairs_per_s", "frames_per_s", "mfu", "peak_gb")
    table = Table("part", "what", *columns, "else", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        found = [_figure(row[c]) if c in row else "" for c in columns]
        table.add_row(row["part"], row["what"], *found, str(row.get("error") or row.get("skipped") or "")[:80])
    print_wide(console, table)
    errors.print(f"{sum('error' in row for row in rows)} errors, {sum('skipped' in row for row in rows)} left out")
