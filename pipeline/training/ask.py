"""What a rank may ask of the training loop between two steps."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Ask(enum.IntEnum):
    """The larger one wins where ranks ask for different things."""

    NONE = 0
    """Go on."""
    SAVE = 1
    """Write a checkpoint after this step."""
    LEAVE = 2
    """Write a checkpoint after this step, wait until it is stored, and return."""


Asker = Callable[[], Ask]
"""Called on every rank before every step's update; must not block. One rank's answer counts for all, at that step."""


def never() -> Ask:
    """Train to the end."""
    return Ask.NONE
