"""Peak memory of some code, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

# Not ru_maxrss: a child inherits that of the process that started it.
_PEAK = """
def _peak_mb():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
"""


def peak_growth_mb(before: str, measured: str, *arguments: str) -> float:
    """MiB by which ``measured`` raises the peak of resident memory over that after ``before``."""
    script = f"{_PEAK}\n{before}\n_before = _peak_mb()\n{measured}\nprint(_peak_mb() - _before)"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return float(done.stdout.split()[-1])
