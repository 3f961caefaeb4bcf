"""The data sets of the papers as they were published: what a data set here is held against."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """Sizes of a data set's evaluation."""

    classes: int
    split: str
    """Split that the papers evaluate on."""
    videos: tuple[int, ...]
    """Videos of it, for each of the official splits into training and testing."""


PUBLISHED = {
    "UCF-101": Published(101, "test", (3783, 3734, 3696)),
    "HMDB-51": Published(51, "test", (1530, 1530, 1530)),
    "Kinetics-400": Published(400, "val", (19906,)),  # rows of the validation list; many videos are gone by now
    "Moments in Time": Published(339, "val", (33900,)),
}


def published(data: str) -> Published | None:
    """By how a recipe names its data set, such as ``UCF-101, split 1``; None where it names none."""
    return next((found for name, found in PUBLISHED.items() if data.startswith(name)), None)
