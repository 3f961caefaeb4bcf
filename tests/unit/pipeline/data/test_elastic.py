"""An epoch that is stopped and resumed on other numbers of ranks, through the real loader: nothing lost, nothing twice,
nothing else.

Manifests, batches, ranks, micro-batches and stops are drawn; samples are a few bytes each, and the decoder writes down
what it is given.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.batch import Batch
from pipeline.data.decoding.base import Row
from pipeline.data.index import SplitIndex
from pipeline.data.loader import Loader
from pipeline.data.sampling.clips import ClipPlan
from pipeline.storage import LocalStorage

CLIP = ClipConfig(num_frames=2, crop=16)


class Bytes(LocalStorage):
    """Tars in memory; counts the bytes' readers."""

    def __init__(self, tars: dict[str, bytes]) -> None:
        super().__init__("/nowhere")
        self.tars = tars

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.tars[path][offset : offset + length]


class Notebook:
    """Decodes nothing: a row's picture is the number its bytes spell, and its plan is kept."""

    def __init__(self) -> None:
        self.plans: dict[int, ClipPlan] = {}

    def decode(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        numbers = [int(members["rgb"]) for members, _, _ in rows]
        self.plans |= {number: plan for number, (_, plan, _) in zip(numbers, rows, strict=True)}
        return {"rgb": torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 16, 16)}

    def submit(self, rows: Sequence[Row]) -> Callable[[], dict[str, torch.Tensor]]:
        return lambda: self.decode(rows)

    def decode_share(self, rows: Sequence[Row]) -> float:
        return 1.0

    def close(self) -> None:
        pass


def small_set(shards: list[int]) -> tuple[Bytes, SplitIndex]:
    """Shards of so many samples; sample i holds the text of i."""
    tars, tar_of, members, number = [], [], [], 0
    for shard, count in enumerate(shards):
        tar = b""
        for _ in range(count):
            text = str(number).encode()
            members.append([(len(tar), len(text), zlib.crc32(text))])
            tar += text
            tar_of.append(shard)
            number += 1
        tars.append(tar)
    names = tuple(f"train/shard-{i:06d}.tar" for i in range(len(shards)))
    rng = np.random.default_rng(number)
    sizes = np.stack([rng.integers(5, 40, number), np.full(number, 32), rng.integers(32, 60, number)], 1)
    index = SplitIndex(
        split="train",
        classes=("a", "b"),
        modalities=("rgb",),
        flow_bound_px=20.0,
        tars=names,
        tar_of=np.array(tar_of, np.int32),
        keys=np.array([f"k{i}".encode() for i in range(number)]),
        labels=np.arange(number) % 2,
        sizes=sizes.astype(np.int32),
        members=np.array(members, np.int64),
    )
    return Bytes(dict(zip(names, tars, strict=True))), index


@dataclasses.dataclass(frozen=True)
class Seen:
    """One sample's way through a step: where it stood in the global batch, and how it was augmented."""

    step: int
    place: int
    key: str
    plan: ClipPlan


def consume(
    storage: Bytes, index: SplitIndex, *, batch: int, micro: int, world: int, epoch: int, steps: range
) -> list[Seen]:
    """What all ranks see in some steps; each is stopped after its last one, as a process is."""
    seen: list[Seen] = []
    for rank in range(world):
        notebook, data = Notebook(), DataConfig(batch_size=batch, micro_batch=micro, fetch_threads=2)
        loader = Loader(
            storage,
            index,
            notebook,
            data=data,
            clip=CLIP,
            train=True,
            seed=5,
            rank=rank,
            world_size=world,
            num_views=1,
            target=torch.device("cpu"),
        )
        with loader:
            batches = loader.iter_epoch(epoch, steps.start)
            taken: list[Batch] = []
            while steps and not (taken and taken[-1].step == steps[-1] and taken[-1].ends_step):
                taken.append(next(batches))
        for b in taken:
            assert b.step in steps
            for row, key in enumerate(b.keys):
                if b.weights[row] == 0:
                    assert key == ""
                    continue
                number = int(b.inputs["rgb"][row].max())
                assert key == f"k{number}"
                assert b.labels[row] == number % 2
                seen.append(Seen(b.step, b.offset + row, key, notebook.plans[number]))
    return seen


@pytest.fixture(autouse=True, scope="module")
def _members_are_no_videos() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.assemble.check_member", lambda *_: None)
        yield


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    per_rank=st.integers(1, 3),
    epoch=st.integers(0, 5),
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=9),
    micro=st.integers(0, 5),
    data=st.data(),
)
def test_up_to_eight_stops_on_other_ranks(shards, per_rank, epoch, worlds, micro, data) -> None:
    batch, total = 12 * per_rank, sum(shards)
    storage, index = small_set(shards)
    steps = -(-total // batch)
    cuts = sorted(
        data.draw(st.lists(st.integers(0, steps), min_size=len(worlds) - 1, max_size=len(worlds) - 1), label="cuts")
    )
    resumed: list[Seen] = []
    for world, begin, end in zip(worlds, [0, *cuts], [*cuts, steps], strict=True):
        resumed += consume(storage, index, batch=batch, micro=micro, world=world, epoch=epoch, steps=range(begin, end))
    assert sorted(s.key for s in resumed) == sorted(f"k{i}" for i in range(total)), "each key exactly once"
    whole = consume(storage, index, batch=batch, micro=0, world=1, epoch=epoch, steps=range(steps))
    order = lambda seen: sorted(seen, key=lambda s: (s.step, s.place))  # noqa: E731
    assert order(resumed) == order(whole), "the same global batches with the same augmentation"
