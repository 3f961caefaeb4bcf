"""One part of the bench in this process: prints its rows, one a line, as they are measured."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import logging
import sys
import time
from pathlib import Path

import torch

from jobs.bench.gpu.command import PARTS, ROW
from jobs.bench.gpu.settings import Settings


def main() -> int:
    """Returns 0, whatever the rows say: their errors are in them."""
    parser = argparse.ArgumentParser("python -m jobs.bench.gpu.part")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--until", type=float, default=float("inf"), help="of time.monotonic()")
    parser.add_argument("--logs", type=Path, default=Path("."))
    parser.add_argument("--flows", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--skip", type=int, default=0, help="measurements that were taken already")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    faulthandler.enable()
    if (left_s := args.until + 2 - time.monotonic()) < 3600:
        faulthandler.dump_traceback_later(max(1.0, left_s))  # where it hangs is in its log
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # its context, which the decoder's library needs
    settings = Settings(device, args.until, args.tiny, args.flows, args.logs, args.skip)
    for row in importlib.import_module(f"jobs.bench.gpu.{args.part}").measure(settings):
        print(ROW + json.dumps(row, default=str), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
