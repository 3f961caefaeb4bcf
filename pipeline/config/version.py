"""Which code this is: the git commit, or a hash of the sources where there is no repository."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def code_version() -> str:
    """Commit of the checkout (``-dirty`` if it was changed), else ``source-<12 hex>`` of all our Python files.

    ``RECIPROCAL_COMMIT`` overrides it: an image or a submitted job that lost its ``.git`` can still say what it is.
    """
    if commit := os.environ.get("RECIPROCAL_COMMIT"):
        return commit
    if (_ROOT / ".git").exists():
        try:
            git = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
            return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git on this machine, or a repository without a commit: the sources still have a hash
    digest = hashlib.sha256()
    for package in ("pipeline", "preprocessing", "jobs"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    return f"source-{digest.hexdigest()[:12]}"
