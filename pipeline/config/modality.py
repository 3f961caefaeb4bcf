"""What a branch of a model sees."""

from __future__ import annotations

from typing import Literal

Modality = Literal["rgb", "flow", "diff", "diff-online"]
"""diff is stored; diff-online is the same difference, taken from the decoded RGB frames instead."""
CHANNELS: dict[str, int] = {"rgb": 3, "flow": 2, "diff": 3, "diff-online": 3}  # channels of one frame of a modality
