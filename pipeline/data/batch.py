"""What the loader hands over: one rank's part of one global batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class Batch:
    """One rank's rows of one step, or one micro-batch of them. A row is one clip: one view of one sample.

    With K views the rows of a sample are contiguous: rows ``i*K .. i*K+K-1`` belong to the rank's sample i.

    Shape:
        inputs[modality]: (B, T, C, H, W) float32. C is 3 for rgb, 2*stack for flow (u_t, v_t, u_{t+1}, v_{t+1}, ...),
            3*stack for diff.
        labels: (B,) int64; 0 for fillers.
        weights: (B,) float32: 1, or 0 for fillers (key ``""``) and damaged samples (key kept), whose inputs are all
            zero.
        keys: B sample keys.

    A step comes in ``num_micro_batches`` batches (``data.micro_batch``), as many on every rank; this one is number
    ``micro_batch_index``, from 0. ``offset`` is the place of its first sample in the global batch, whatever the number
    of ranks.

    Raises:
        ValueError: shapes or dtypes disagree; the message prints them.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor
    keys: tuple[str, ...]
    epoch: int
    step: int
    micro_batch_index: int = 0
    num_micro_batches: int = 1
    offset: int = 0
    arrival: Any = dataclasses.field(default=None, repr=False, compare=False)
    """Between the loader's threads: the event behind which the tensors are there (``pipeline.data.delivery``)."""

    def __post_init__(self) -> None:
        rows = len(self.keys)
        clips = [tuple(x.shape) for x in self.inputs.values()]
        ok = (
            bool(clips)
            and all(len(s) == 5 and s[0] == rows and (s[:2], s[3:]) == (clips[0][:2], clips[0][3:]) for s in clips)
            and all(x.dtype == torch.float32 for x in (*self.inputs.values(), self.weights))
            and self.labels.shape == self.weights.shape == (rows,)
            and self.labels.dtype == torch.int64
        )
        if not ok:
            tensors = {**self.inputs, "labels": self.labels, "weights": self.weights}
            shown = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in tensors.items())
            raise ValueError(
                "a batch needs (B, T, C, H, W) float32 inputs with equal B, T, H, W, int64 labels (B,) and "
                f"float32 weights (B,); got {rows} keys and {shown}"
            )

    @property
    def ends_step(self) -> bool:
        """Whether this is the step's last micro-batch."""
        return self.micro_batch_index == self.num_micro_batches - 1

    def __len__(self) -> int:
        """Rows, fillers included."""
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return dataclasses.replace(
            self,
            inputs={name: x.to(device, non_blocking=non_blocking) for name, x in self.inputs.items()},
            labels=self.labels.to(device, non_blocking=non_blocking),
            weights=self.weights.to(device, non_blocking=non_blocking),
        )
