"""Where --source and --out lie: one inside the other would make the data set its own input."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConfigError


def check_apart(source: str, out: str) -> None:
    """Make sure that neither of --source and --out lies inside the other, links resolved.

    A data set below its own source would be listed with the videos by the next run of the same command, which reads
    its tars as archives of videos while it writes them.

    Raises:
        ConfigError: they are nested or equal.
    """
    where, target = _parts(source), _parts(out)
    shorter = min(len(where), len(target))
    if where[:shorter] != target[:shorter]:
        return
    how = "the same place as" if where == target else "inside" if len(target) > len(where) else "around"
    raise ConfigError(
        "out", out, f"is {how} --source {source}, so the data set would mix with the videos: give an --out beside it"
    )


def _parts(uri: str) -> tuple[str, ...]:
    """Bucket and folders of a prefix, or those of a real path."""
    if uri.startswith("s3://"):
        return ("s3:", *uri.removeprefix("s3://").rstrip("/").split("/"))
    return Path(os.path.realpath(Path(uri.removeprefix("file://")).expanduser())).parts
