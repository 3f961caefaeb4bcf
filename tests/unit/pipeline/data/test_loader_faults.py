"""Loaders that meet damage, hanging storage and impatient consumers; nothing is left behind."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest
import torch

from pipeline.config.data import ClipConfig
from pipeline.errors import ConfigError, DamagedSampleError, ReciprocalError, StorageError
from pipeline.storage import LocalStorage


@pytest.fixture
def damaged(loader, counter_set, tmp_path):
    """A copy of the data set with one byte flipped in the rgb member of some training samples."""
    root = tmp_path / "copy"
    shutil.copytree(counter_set.root, root)

    def flip(count: int) -> tuple[LocalStorage, set[str]]:
        with loader(counter_set) as part:
            samples = [part.index.sample_range(i) for i in range(2, 2 + count)]
        for sample in samples:
            (rgb,) = (member for member in sample.members if member.name == "rgb.mp4")
            with (root / sample.tar).open("r+b") as file:
                file.seek(rgb.offset + 100)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 0x10]))
        return LocalStorage(str(root)), {sample.key for sample in samples}

    return flip


def test_a_damaged_sample_is_black_counted_and_named(loader, counter_set, damaged, backend, caplog) -> None:
    storage, keys = damaged(1)
    with loader(counter_set, backend=backend, storage=storage) as part, loader(counter_set, backend=backend) as intact:
        for epoch in range(2):
            for batch, good in zip(part.iter_epoch(epoch), intact.iter_epoch(epoch), strict=True):
                assert batch.keys == good.keys, "nothing is put in its place"
                assert torch.equal(batch.labels, good.labels)
                for row, key in enumerate(batch.keys):
                    if key in keys:
                        assert batch.weights[row] == 0
                        assert not any(x[row].any() for x in batch.inputs.values())
                    else:
                        assert batch.weights[row] == good.weights[row]
                        assert all(torch.equal(batch.inputs[m][row], good.inputs[m][row]) for m in batch.inputs)
        assert part.metrics()["damaged"] == 1
        assert part.metrics()["requests"] == 2 * (13 + 1)
    assert (
        sum(
            next(iter(keys)) in record.getMessage() and "shard-000000" in record.getMessage()
            for record in caplog.records
        )
        == 1
    )


def test_more_damage_than_the_budget_fails_with_the_list(loader, ours, counter_set, damaged, backend) -> None:
    storage, keys = damaged(2)
    with loader(counter_set, backend=backend, storage=storage) as part:
        with pytest.raises(DamagedSampleError) as caught:
            list(part.iter_epoch(0))
        assert all(key in str(caught.value) for key in keys)
        assert ours() == []


def test_a_batch_of_damage_alone_needs_no_decoder(loader, counter_set, damaged) -> None:
    storage, keys = damaged(3)
    with loader(counter_set, batch=1, backend="reference", storage=storage, data={"damaged_budget": 3}) as part:
        batches = list(part.iter_epoch(0))
    assert sum(float(b.weights.sum()) for b in batches) == 10
    assert {b.keys[0] for b in batches if b.weights[0] == 0} == keys


def test_bytes_that_are_right_but_no_video_fail_with_the_keys(
    loader, ours, stored_set_of, pictures, tmp_path, backend
) -> None:
    junk = stored_set_of(
        tmp_path,
        {"train": [3]},
        pictures["counter"],
        modalities=("rgb",),
        alter=lambda key, members: {**members, "rgb.mp4": b"\0" * 3000},
    )
    with loader(junk, batch=3, backend=backend, modalities=("rgb",)) as part:
        with pytest.raises((ReciprocalError, ConfigError)) as caught:
            list(part.iter_epoch(0))
        assert all(key in str(caught.value) for key in junk.videos), str(caught.value)
    assert ours() == []


def test_leaving_early_leaves_no_threads(loader, ours, counter_set, backend) -> None:
    with loader(counter_set, batch=2, backend=backend) as part:
        batches = part.iter_epoch(0)
        next(batches)
        assert len(ours()) > 0
        batches.close()
        assert ours() == []
        first, second = part.iter_epoch(0), part.iter_epoch(1)
        next(first)
        next(second)  # an abandoned iterator is stopped by the next one, and says so
        with pytest.raises(RuntimeError, match="closed before its end"):
            next(first)
        next(second)
    assert ours() == []


class BlockedStorage(LocalStorage):
    """Ranged reads hang until the gate opens."""

    gate: threading.Event

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.gate.wait(20)
        return super().read_range(path, offset, length)


def test_storage_that_hangs_fails_in_time_and_can_be_left(loader, ours, counter_set) -> None:
    storage = BlockedStorage(str(counter_set.root))
    storage.gate = threading.Event()
    with loader(counter_set, storage=storage, data={"fetch_deadline_s": 0.1}) as part:
        threading.Timer(0.4, storage.gate.set).start()
        with pytest.raises(StorageError, match=r"sample clip-.* in .*shard-.*\.tar did not arrive within 0\.1 s"):
            list(part.iter_epoch(0))
    assert ours() == []


def test_prefetching_stops_at_its_bound(loader, counter_set) -> None:
    with loader(counter_set, batch=1, data={"prefetch": 3}) as part:
        batches = part.iter_epoch(0)
        next(batches)
        deadline = time.monotonic() + 10
        while part.metrics()["batches"] < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert part.metrics()["batches"] == 5, "one taken, three ahead, and one begun"
        batches.close()


def test_two_hundred_batches_grow_nothing(loader, counter_set, backend) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts handles in /proc")
    clip = ClipConfig(num_frames=2, crop=16)
    with loader(counter_set, batch=1, backend=backend, clip=clip, modalities=("rgb",)) as part:
        seen, counts = 0, []
        for epoch in range(16):
            for batch in part.iter_epoch(epoch):
                seen += len(batch)
            counts.append(held())
    assert seen == 208
    # The kernel lists a joined thread a moment longer; one handle or thread leaked per epoch would be 15.
    assert all(last <= first + 3 for first, last in zip(counts[0], counts[-1], strict=True)), (
        f"handles, threads per epoch: {counts}"
    )
