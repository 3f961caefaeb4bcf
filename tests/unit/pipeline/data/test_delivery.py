"""Clips on their way to a device: memory is used again when they have left it, and the consumer comes after them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
import torch

from pipeline.data.batch import Batch
from pipeline.data.decoding.stacks import ClipMemory
from pipeline.data.delivery import Arrival, Delivery


class Mark:
    arrived = False

    def query(self) -> bool:
        return self.arrived


class SlowLane:
    """Whatever is sent arrives when the test says so."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.joined: list[tuple[Arrival, int]] = []

    def open(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def mark(self) -> Mark:
        self.marks.append(Mark())
        return self.marks[-1]

    def join(self, arrival: Arrival, tensors: Iterable[torch.Tensor]) -> None:
        self.joined.append((arrival, len(list(tensors))))


def test_memory_is_not_used_again_before_its_clips_have_left_it() -> None:
    lane, memory = SlowLane(), ClipMemory()
    delivery = Delivery(torch.device("meta"), lane)
    addresses = []
    for _ in range(3):
        clips, _ = memory.empty_clips(2, 3, 3, 8, True)
        addresses.append(clips.untyped_storage().data_ptr())
        assert delivery.send({"rgb": clips})["rgb"].stride() == clips.stride()
        del clips
        if len(addresses) == 2:
            lane.marks[0].arrived = True  # looked at when the third is sent
    assert len(set(addresses)) == 3
    clips, _ = memory.empty_clips(2, 3, 3, 8, True)
    assert clips.untyped_storage().data_ptr() == addresses[0]


def test_the_consumer_comes_after_all_tensors_of_a_batch_once() -> None:
    lane = SlowLane()
    delivery = Delivery(torch.device("cpu"), lane)
    inputs = {m: torch.zeros(2, 3, 3, 8, 8) for m in ("rgb", "diff")}
    batch = Batch(inputs, torch.zeros(2, dtype=torch.int64), torch.ones(2), ("a", "b"), 0, 0)
    received = delivery.receive(delivery.seal(batch))
    assert lane.joined == [(lane.marks[0], 4)]
    assert received.arrival is None
    delivery.receive(received)
    assert len(lane.joined) == 1


def test_where_batches_stay_on_the_cpu_nothing_is_copied() -> None:
    delivery = Delivery(torch.device("cpu"))
    clips = {"rgb": torch.zeros(1, 2, 3, 8, 8)}
    assert delivery.send(clips)["rgb"] is clips["rgb"]


def test_motion_travels_unstacked(loader, counter_set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a window, not stacks: T + stack - 1 maps of two channels instead of T * stack."""
    sent = []
    send = Delivery.send
    monkeypatch.setattr(Delivery, "send", lambda self, clips: sent.append(clips["flow"].shape) or send(self, clips))
    with loader(counter_set, batch=5, target=torch.device("meta")) as part:
        batch = next(part.iter_epoch(0))
    assert sent[0] == (5, 4, 2, 16, 16)
    assert batch.inputs["flow"].shape == (5, 3, 4, 16, 16)
    assert {x.device.type for x in (*batch.inputs.values(), batch.labels, batch.weights)} == {"meta"}
