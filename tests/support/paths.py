"""Where tests find the checkout and the real clips."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Folder of real clips and annotation files: RECIPROCAL_DATA, else ../shared/data beside the checkout."""
    return Path(os.environ.get("RECIPROCAL_DATA") or ROOT.parent / "shared" / "data")
