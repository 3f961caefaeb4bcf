"""Memory of batches is reused when, and only when, it is no longer referenced."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from pipeline.data.decoding.stacks import ClipMemory
from pipeline.errors import StorageError


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_comes_back_with_its_last_view(channels_last: bool) -> None:
    memory = ClipMemory()
    clips, flat = memory.empty_clips(2, 3, 2, 4, channels_last)
    assert clips.shape == (2, 3, 2, 4, 4)
    assert flat.is_contiguous()
    assert (clips.stride(2) == 1) == channels_last
    first = address(clips)
    rows = clips.flatten(0, 1)[1:3]
    array = clips[0, 0].numpy()
    del clips, flat
    assert address(memory.empty_clips(2, 3, 2, 4, channels_last)[0]) != first, "a view of it is alive"
    del rows
    assert address(memory.empty_clips(2, 3, 2, 4, channels_last)[0]) != first, "an array of it is alive"
    del array
    assert address(memory.empty_clips(2, 3, 2, 4, channels_last)[0]) == first
    smaller, _ = memory.empty_clips(1, 3, 2, 4, channels_last)
    assert smaller.shape == (1, 3, 2, 4, 4)


def test_blocks_that_are_held_stay_as_they_are() -> None:
    memory, held = ClipMemory(keep=2), []
    for number in range(5):
        clips, _ = memory.empty_clips(1, 2, 3, 8, False)
        clips.fill_(number)
        held.append(clips)
    assert [int(c.min()) for c in held] == [int(c.max()) for c in held] == list(range(5))
    assert len({address(c) for c in held}) == 5
    assert len(memory._blocks) == 2


def test_large_blocks_replace_small_ones() -> None:
    memory = ClipMemory(keep=1)
    memory.empty_clips(1, 1, 1, 4, False)
    memory.empty_clips(1, 1, 1, 8, False)
    assert [b.size for b in memory._blocks] == [64]


def test_a_second_round_costs_no_fresh_pages() -> None:
    memory = ClipMemory()

    def faults() -> tuple[int, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        clips = memory.empty_clips(16, 10, 3, 224, False)[0].fill_(1.0)  # 92 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, address(clips)

    (first, place), (second, place_again) = faults(), faults()
    print(f"page faults: {first}, then {second}")
    assert place_again == place, "written before, so its pages are there"
    if first:  # some kernels count no page faults at all
        assert second < first / 10


def test_batches_that_the_trainer_keeps_are_not_written_over(loader, texture_set) -> None:
    with loader(texture_set, batch=2, backend="ffmpeg") as part:
        kept = list(part.iter_epoch(0))
    with loader(texture_set, batch=2, backend="ffmpeg") as part:
        for batch, again in zip(part.iter_epoch(0), kept, strict=True):
            for modality, x in batch.inputs.items():
                np.testing.assert_array_equal(x.numpy(), again.inputs[modality].numpy())


def test_an_error_behind_a_batch_does_not_take_it_along(loader, texture_set) -> None:
    """The next batch is begun before one is handed over: its failure comes after it, at its own step."""
    with loader(texture_set, batch=2, backend="ffmpeg") as part:
        whole = [batch.keys for batch in part.iter_epoch(0)]
    third = [k for k in whole[2] if k]

    class Failing(type(texture_set.storage)):  # type: ignore[misc]
        def read_range(self, path: str, offset: int, length: int) -> bytes:
            index = part.index
            at = {s[:1] + s[2:3]: s.key for s in map(index.sample_range, range(len(index)))}
            if at[path, offset] in third:
                raise StorageError("gone")
            return super().read_range(path, offset, length)

    taken = []

    def take(batches) -> None:
        for batch in batches:
            taken.append(batch.keys)

    with (
        loader(texture_set, batch=2, backend="ffmpeg", storage=Failing(str(texture_set.root))) as broken,
        pytest.raises(StorageError, match="gone"),
    ):
        take(broken.iter_epoch(0))
    assert taken == whole[:2]
