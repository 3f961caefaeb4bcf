"""Ctrl-C while a command still imports what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    """They take seconds, before a command can handle anything itself."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'jobs.verify.command':\n"
        "            signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.verify", "x"], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stderr == "interrupted before it began\n"
