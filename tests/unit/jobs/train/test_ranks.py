"""How many ranks a run gets: every number of ranks is tried by hand, and what does not fit is left out."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster.connect import wants_gpu
from jobs.cluster.nodes import Node
from jobs.train.driver import need_of
from jobs.train.ranks import Need, with_ranks
from pipeline.config.data import DataConfig
from pipeline.config.train import RunConfig, TrainConfig
from pipeline.data.sampling.order import micro_batches
from pipeline.errors import ConfigError


def node(cpus: float, gpus: float = 0.0, leaves_at: float | None = None) -> Node:
    return Node(id="n", address="", free={"CPU": cpus, "GPU": gpus}, total={}, leaves_at=leaves_at)


def placeable(nodes: list[Node], need: Need, ranks: int) -> bool:
    """Whether so many ranks fit, found by trying every way to spread them over the nodes."""
    for counts in itertools.product(range(ranks + 1), repeat=len(nodes)):
        if sum(counts) == ranks and all(
            count * need.cpus <= node.free["CPU"] + 1e-9
            and count * need.gpus <= node.free["GPU"]
            and (node.leaves_at is None or not count)
            and (not need.spread or count <= 1)
            for node, count in zip(nodes, counts, strict=True)
        ):
            return True
    return False


NODES = st.lists(
    st.builds(node, st.sampled_from([0, 0.5, 1, 2, 3]), st.sampled_from([0, 1, 2]), st.sampled_from([None, None, 5.0])),
    max_size=3,
)
NEEDS = st.builds(
    lambda most, least, batch, cpus, gpus, spread: Need(
        most=most, least=min(least, most), batch_size=batch, cpus=cpus, gpus=gpus, spread=spread
    ),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from([0.5, 1.0, 1.5]),
    st.integers(0, 1),
    st.booleans(),
)


@given(nodes=NODES, need=NEEDS)
def test_the_largest_allowed_number_that_fits_and_divides_the_batch(nodes: list[Node], need: Need) -> None:
    allowed = [
        ranks
        for ranks in range(need.least, need.most + 1)
        if need.batch_size % ranks == 0 and placeable(nodes, need, ranks)
    ]
    assert need.ranks(need.places(nodes)) == max(allowed, default=0)


def test_tenths_of_a_cpu_add_up() -> None:
    need = Need(most=3, least=3, batch_size=3, cpus=0.1)
    assert need.ranks(need.places([node(0.3)])) == 3


@pytest.mark.parametrize(
    ("run", "gpus", "grows", "least"),
    [
        ({}, 1, False, 1),  # the demo on one GPU: auto, two ranks
        ({"num_workers": 8}, 7, False, 4),  # a batch of 8 does not divide by 5, 6 or 7
        ({"num_workers": 8}, 64, False, 8),
        ({"min_workers": 2}, 1, False, 2),  # as asked for
        ({"use_gpu": "yes"}, 1, False, 2),
        ({}, 1, True, 2),  # more may be added
        ({}, 0, False, 2),  # on CPUs
    ],
)
def test_auto_starts_with_as_many_ranks_as_there_are_gpus(
    run: dict, gpus: int, grows: bool, least: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0, "GPU": float(gpus)})
    monkeypatch.setenv("RECIPROCAL_AUTOSCALING", "1" if grows else "")
    config = TrainConfig(data=DataConfig(batch_size=8), run=RunConfig(**{"num_workers": 2, **run}))
    need = need_of(config, wants_gpu(config.run.use_gpu))
    assert (need.least, need.most, need.gpus) == (least, config.run.num_workers, int(gpus > 0))
    said = [record.getMessage() for record in caplog.records]
    lowered = least < (config.run.min_workers or config.run.num_workers)
    assert [line.partition(";")[0].partition(" and the same")[0] for line in said] == [
        f"the cluster has {gpus} GPU{'' if gpus == 1 else 's'} for {config.run.num_workers} ranks: the run starts with"
        f" {least} rank{'' if least == 1 else 's'}"
    ] * lowered


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_fewer_ranks_take_no_more_at_once_and_the_same_samples(ranks: int) -> None:
    config = TrainConfig()
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=24),
        run=dataclasses.replace(config.run, num_workers=12, min_workers=1),
    )
    data = with_ranks(config, ranks).data
    parts = [
        [
            batch.samples.tolist()
            for batch in micro_batches(
                np.arange(24), 0, batch_size=24, micro_batch=data.micro_batch, rank=rank, world_size=ranks
            )
        ]
        for rank in range(ranks)
    ]
    assert sorted(sample for rank in parts for part in rank for sample in part) == list(range(24))
    assert {len(part) for rank in parts for part in rank} == {2}  # 24 clips over 12 ranks


def test_the_least_ranks_are_at_most_the_most() -> None:
    with pytest.raises(ConfigError, match=r"run\.min_workers = 3: must be 0 \(run\.num_workers\) to 2"):
        RunConfig(num_workers=2, min_workers=3)
