"""How much a training step asks of a device, counted without one: what its roofline in BENCHMARKS.md is made of."""

from __future__ import annotations

from types import ModuleType

import pytest

from jobs.bench.gpu import crn, mrst
from pipeline.models.flops import training_flop
from tests.support.operations import step_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "clips", "most_operations", "most_gb"),
    [(mrst, 8, 3_000, 125), (mrst, 16, 3_000, 250), (crn, 4, 2_750, 53)],
    ids=["MRST-T 8", "MRST-T 16", "CRN"],
)
def test_operations_of_a_step_do_not_grow(
    network: ModuleType, clips: int, most_operations: int, most_gb: float
) -> None:
    """The bounds are what was counted when the step was last made smaller, rounded up: 2,912 operations of MRST-T,
    whatever the number of clips, and 2,693 of CRN; 124.4 and 52.2 GB.
    """
    config = network.config_for(clips, False)
    operations, flop = step_of(config, network.CLASSES)
    assert operations.total <= most_operations, operations.counts.most_common(20)
    assert operations.bytes <= most_gb * 1e9
    # MFU takes a step for three forward passes: the first convolutions need no gradient of the clips, 2 % of it.
    assert 0.975 < flop / (clips * training_flop(config.model, network.CLASSES, config.clip.crop)) < 1
