"""Bringing a loader's clips to the device that trains on them, without holding up what runs there.

A copy from ordinary memory stops every launch of the process until it is done, and on the training's own stream it
waits for the step before it: beside such a loader a step of CRN took almost four times as long. So clips lie in
page-locked memory, travel on a stream of their own in the loader's thread, and the consumer's stream waits for an
event.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Protocol

import torch

from pipeline.data.batch import Batch


class Arrival(Protocol):
    """What was sent before it has arrived: a CUDA event."""

    def query(self) -> bool: ...


class Lane(Protocol):
    """A stream of its own."""

    def open(self) -> contextlib.AbstractContextManager[object]:
        """Within it this thread's work on the device goes to the lane."""
        ...

    def mark(self) -> Arrival:
        """What comes behind all work of the lane so far."""
        ...

    def join(self, arrival: Arrival, tensors: Iterable[torch.Tensor]) -> None:
        """Work of the calling thread from now on comes after ``arrival``; the tensors' memory is free again only
        behind it.
        """
        ...


class CudaLane:
    """A CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def open(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> Arrival:
        event = torch.cuda.Event()
        event.record(self._stream)
        return event

    def join(self, arrival: Arrival, tensors: Iterable[torch.Tensor]) -> None:
        stream = torch.cuda.current_stream(self._stream.device)
        assert isinstance(arrival, torch.cuda.Event)
        stream.wait_event(arrival)
        for tensor in tensors:
            tensor.record_stream(stream)


class Delivery:
    """From the loader's thread to the consumer's; where batches stay on the CPU it does nothing.

    Args:
        target: where batches are wanted.
        lane: by default a CUDA stream where the target is a GPU.
    """

    def __init__(self, target: torch.device, lane: Lane | None = None) -> None:
        self.target = target
        self._lane = CudaLane(target) if lane is None and target.type == "cuda" else lane
        self._sent: collections.deque[tuple[Arrival, tuple[torch.Tensor, ...]]] = collections.deque()

    def open(self) -> contextlib.AbstractContextManager[object]:
        """In the loader's thread, around everything that makes a batch."""
        return self._lane.open() if self._lane else contextlib.nullcontext()

    def send(self, clips: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Clips on the target. Those in the host's memory are held until they have left it: it may be used again for
        the next clips as soon as nobody holds it.
        """
        found = {name: x.to(self.target, non_blocking=True) for name, x in clips.items()}
        if self._lane is None:
            return found
        while self._sent and self._sent[0][0].query():
            self._sent.popleft()
        self._sent.append((self._lane.mark(), tuple(clips.values())))
        return found

    def tensor(self, host: torch.Tensor) -> torch.Tensor:
        """A small tensor of ordinary memory on the target."""
        if self.target.type == "cuda":
            host = host.pin_memory()  # the allocator of such memory knows of copies on their way
        return host.to(self.target, non_blocking=True)

    def seal(self, batch: Batch) -> Batch:
        """The batch with the event that its tensors are there."""
        return dataclasses.replace(batch, arrival=self._lane.mark()) if self._lane else batch

    def receive(self, batch: Batch) -> Batch:
        """In the consumer's thread: what it does from now on comes after the batch's tensors are there."""
        if self._lane is None or batch.arrival is None:
            return batch
        self._lane.join(batch.arrival, (*batch.inputs.values(), batch.labels, batch.weights))
        return dataclasses.replace(batch, arrival=None)
