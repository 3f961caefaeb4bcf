"""What a measurement says of the machine it was taken on, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.common.cli import console, errors


def hardware() -> dict[str, Any]:
    """CPU, cores, load average over the last minute, and the GPU's name or None."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(*distributions: str) -> dict[str, str]:
    """Python's version, and those of the distributions that are installed."""
    found = {"python": platform.python_version()}
    installed = {
        d.metadata["Name"].lower().replace("_", "-"): d.version
        for d in importlib.metadata.distributions()
        if d.metadata["Name"]
    }
    return found | {name: installed[name] for name in distributions if name in installed}


def finish(result: dict[str, Any], file: Path, show: Callable[[dict[str, Any]], None]) -> int:
    """Write and show a result; returns the exit code: 1 where ``result["missed"]`` names something, each on a red
    line.
    """
    file.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    console.print(f"result   {file}", markup=False)
    for line in result["missed"]:
        errors.print(f"does not hold: {line}", style="bold red", markup=False)
    return 1 if result["missed"] else 0


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
