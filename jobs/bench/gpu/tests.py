"""The tests marked ``gpu`` but not ``slow``, as they run anywhere; their log stays beside the result."""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from jobs.bench.gpu.settings import Row, Settings, guarded

ROOT = Path(__file__).resolve().parents[3]
_WORKERS = 6


def measure(settings: Settings) -> Iterator[Row]:
    """One row, and one for each test that failed."""
    if not (ROOT / "tests").is_dir():
        yield {"what": "tests", "skipped": "no tests beside this code"}
        return
    log = settings.logs / "gpu_tests.log"
    row = next(guarded(settings, "pytest -m 'gpu and not slow'", lambda: _run(settings, log), needs_s=2.0))
    yield row
    for line in re.findall(r"^(?:FAILED|ERROR) .*$", log.read_text() if log.exists() else "", re.M):
        yield {"what": line[:300], "error": "failed"}


def _run(settings: Settings, log: Path) -> Row:
    words = ["-v", "-m", "gpu and not slow", "-p", "no:cacheprovider", "-rP", "--durations=8", "--tb=short"]
    if settings.tiny:
        words = [*words, "--collect-only"]
    elif importlib.util.find_spec("xdist") is not None:
        # Kernels are compiled on the CPU, one by one in each process.
        words = [*words, "-n", str(_WORKERS), "--dist", "worksteal"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if settings.cuda:
        environment["RECIPROCAL_EXPECT_GPU"] = "1"
    if settings.flows is not None:
        environment["RECIPROCAL_FLOWS"] = str(settings.flows.absolute())
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words, "tests/unit"], cwd=ROOT, stdout=out, stderr=out, env=environment
        )
        try:
            code = process.wait(timeout=max(1.0, settings.left_s()))
        except subprocess.TimeoutExpired:
            for child in (*psutil.Process(process.pid).children(recursive=True), process):
                child.kill()
            code = process.wait()
    text = log.read_text()
    summary = re.findall(r"^.*(?:passed|failed|error|selected|collected).* in [\d.]+.*$", text, re.M)
    verdicts = collections.Counter(re.findall(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b(?= tests/| +\[)", text))
    return {"returned": code, "summary": summary[-1].strip("= ") if summary else "not ended", **verdicts}
