"""What all ranks learn of a step together: whether its numbers are finite, and what was asked for.

Reading a number of the device makes the host wait for all that it was given to do, and then the device for the host. On
a GPU a step is therefore read at the next one, when its numbers have long arrived: all ranks act one step later, at
the same one. Nothing is stored of a step that was not read.
"""

from __future__ import annotations

import dataclasses

import torch

from pipeline.errors import NotFiniteError
from pipeline.training.ask import Ask


def reads_late(device: torch.device) -> bool:
    """Whether waiting for a step's numbers costs time there."""
    return device.type == "cuda"


@dataclasses.dataclass(frozen=True)
class _Unread:
    numbers: torch.Tensor
    """loss, gradient norm, sum of the ranks' wishes to save, to leave; on the host, or on its way there."""
    arrival: torch.cuda.Event | None
    step: int
    keys: tuple[str, ...]


class Verdicts:
    """One rank's reading; collective only in that every rank reads the same sums at the same steps."""

    def __init__(self, device: torch.device) -> None:
        self._late = reads_late(device)
        self._unread: _Unread | None = None
        self._heard = Ask.NONE

    def put(self, numbers: torch.Tensor, step: int, keys: tuple[str, ...]) -> None:
        """A step's loss, norm and wishes, on the device; before its update.

        Raises:
            NotFiniteError: loss or norm of this step, or where it is read late of the one before it, are not finite;
                names that step and its samples.
        """
        self.settle()
        host, arrival = numbers, None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            host.copy_(numbers, non_blocking=True)
            arrival = torch.cuda.Event()
            arrival.record(torch.cuda.current_stream(numbers.device))
        self._unread = _Unread(host, arrival, step, keys)
        if not self._late:
            self.settle()

    def settle(self) -> None:
        """Read what was put and not read; raises as ``put``."""
        if self._unread is None:
            return
        unread, self._unread = self._unread, None
        if unread.arrival is not None:
            unread.arrival.synchronize()
        loss, norm, save, leave = unread.numbers.tolist()
        if not abs(norm) < float("inf"):
            raise NotFiniteError(
                f"loss {loss:.3g} or gradient norm {norm:.3g} is not finite at step {unread.step}, samples"
                f" {', '.join(unread.keys[:4])}...: lower optim.lr and optim.backbone_lr, or set a lower"
                " optim.clip_norm"
            )
        self._heard = max(self._heard, Ask.LEAVE if leave else Ask.SAVE if save else Ask.NONE)

    def hear(self) -> Ask:
        """What was asked for at the steps read since the last call."""
        heard, self._heard = self._heard, Ask.NONE
        return heard

    def saving(self) -> None:
        """Before a checkpoint: read everything; wishes for one are being fulfilled."""
        self.settle()
        if self._heard is Ask.SAVE:
            self._heard = Ask.NONE
