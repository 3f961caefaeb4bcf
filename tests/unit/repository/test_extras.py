"""A package that only one command needs is an extra, and the command says so where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

COMMANDS = ("preprocess", "verify", "report", "train", "evaluate", "ensemble", "promote", "predict", "demo")


@pytest.mark.slow
def test_only_benches_and_tests_import_webdataset() -> None:
    """A machine without the extra can do everything else: one process imports every other command."""
    program = "import sys\nsys.modules['webdataset'] = None\n" + "".join(f"import jobs.{c}\n" for c in COMMANDS)
    program += "import jobs.bench.command, jobs.ablations.command\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
