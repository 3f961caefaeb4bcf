"""Copies of a run's state: what they hold, where they lie, and that their memory is used again."""

from __future__ import annotations

import pytest
import torch

from pipeline.config.data import ClipConfig
from pipeline.data.batch import Batch
from pipeline.data.decoding.stacks import ClipMemory, stack_motion
from pipeline.data.delivery import Delivery
from pipeline.training.host_copies import HostCopies


def tree(device: str = "cpu") -> dict:
    torch.manual_seed(0)
    last = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    return {"a": [torch.arange(6, device=device), (0.5, last)], "n": 3, "none": None, "scalar": torch.tensor(2.0)}


def test_a_copy_stays_as_it_was_and_keeps_layouts() -> None:
    original = tree()
    copied = HostCopies().copy(original, "x")
    original["a"][0].fill_(7)
    original["a"][1][1].zero_()
    expected = tree()
    assert torch.equal(copied["a"][0], expected["a"][0])
    assert torch.equal(copied["a"][1][1], expected["a"][1][1])
    assert copied["a"][1][1].stride() == expected["a"][1][1].stride()
    assert (copied["n"], copied["none"], copied["a"][1][0], copied["scalar"].item()) == (3, None, 0.5, 2.0)
    assert HostCopies().copy(original, "x", contiguous=True)["a"][1][1].is_contiguous()


def test_memory_is_used_again_unless_the_shape_has_changed() -> None:
    copies = HostCopies()
    first = copies.copy({"w": torch.zeros(3)}, "x")["w"]
    second = copies.copy({"w": torch.ones(3)}, "x")["w"]
    assert first.data_ptr() == second.data_ptr()
    assert second.tolist() == [1.0] * 3
    assert copies.copy({"w": torch.ones(4)}, "x")["w"].shape == (4,)
    assert (
        copies.copy({"w": torch.ones(4)}, "y")["w"].data_ptr() != copies.copy({"w": torch.ones(4)}, "x")["w"].data_ptr()
    )


@pytest.mark.gpu
def test_copies_from_a_gpu_are_page_locked_and_equal() -> None:
    copies, original = HostCopies(), tree("cuda")
    copied = copies.copy(original, "x")
    copies.settle()
    original["a"][0].fill_(7)
    torch.cuda.synchronize()
    assert copied["a"][0].is_pinned()
    assert copied["a"][0].tolist() == list(range(6))
    assert torch.equal(copied["a"][1][1], original["a"][1][1].cpu())


@pytest.mark.gpu
def test_what_arrives_on_a_gpu_is_what_was_sent() -> None:
    """Beside a busy stream, from memory that is used again at once: every batch is compared with its number."""
    device, memory, clip = torch.device("cuda", 0), ClipMemory(pinned=True), ClipConfig(num_frames=4, stack=3, crop=64)
    delivery = Delivery(device)
    busy = torch.randn(4096, 4096, device=device)
    wrong = torch.zeros((), device=device)
    for number in range(40):
        with delivery.open():
            clips, flat = memory.empty_clips(8, 6, 2, 64, True)
            assert clips.is_pinned()
            flat.fill_(number)
            motion = stack_motion(delivery.send({"flow": clips})["flow"], clip)
            del clips, flat
            labels = delivery.tensor(torch.full((8,), number))
            batch = Batch({"flow": motion}, labels, delivery.tensor(torch.ones(8)), ("k",) * 8, 0, 0)
            batch = delivery.seal(batch)
        busy = busy @ busy / 64
        batch = delivery.receive(batch)
        wrong += (batch.inputs["flow"] != number).sum() + (batch.labels != number).sum()
    assert wrong.item() == 0
