"""How much a training step asks of a device, counted without one: what its roofline in BENCHMARKS.md is made of."""

from __future__ import annotations

import pytest

from jobs.bench.gpu import crn, mrst
from pipeline.models.flops import training_flop
from tests.support.operations import step_of


@pytest.mark.slow
@pytest.mark.parametrize(("network", "clips"), [(mrst, 8), (crn, 4)], ids=["MRST-T", "CRN"])
def test_operations_of_a_step(network, clips: int) -> None:
    config = network.config_for(clips, False)
    operations, flop = step_of(config, network.CLASSES)
    print(f"{operations.total} operations, {flop / 1e12:.2f} TFLOP, {operations.bytes / 1e9:.1f} GB")
    print(operations.counts.most_common(25))
    assert flop == clips * training_flop(config.model, network.CLASSES, config.clip.crop)
    assert operations.total < 1
