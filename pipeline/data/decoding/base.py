"""What a decoder is: rows of encoded members and plans in, float clips out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import torch

from pipeline.data.sampling.clips import ClipPlan

Device = Literal["cpu", "gpu"]
Size = tuple[int, int]
"""(rows, columns) of a picture."""
Row = tuple[Mapping[str, bytes], ClipPlan, Size]
"""One clip to make: members by stored modality, plan, size of the stored rgb picture in pixels."""


class Decoder(Protocol):
    """Turns rows into (rows, F, C, crop, crop) float32 by modality, motion not yet stacked."""

    def decode(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]: ...
    def submit(self, rows: Sequence[Row]) -> Callable[[], dict[str, torch.Tensor]]:
        """Begin ``decode(rows)``, as far as the backend can work concurrently with its caller. The returned function
        waits for the clips; it is called once.
        """
        ...

    def decode_share(self, rows: Sequence[Row]) -> float:
        """Share of the time of ``decode(rows)`` that goes into decoding videos, in 0..1; costs up to twice that
        time.
        """
        ...

    def close(self) -> None: ...
