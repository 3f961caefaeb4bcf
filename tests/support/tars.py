"""Tars of samples, for tests that store data sets of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.dataset.shards import TarBuilder


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes | Path]]]) -> None:
    """Write samples (key, members by extension), in the given order."""
    with TarBuilder(path) as tar:
        for key, members in samples:
            tar.add(key, members)
