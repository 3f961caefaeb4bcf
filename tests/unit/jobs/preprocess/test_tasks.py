"""What a task takes of a cluster."""

from __future__ import annotations

from fractions import Fraction

import pytest

from jobs.preprocess.tasks import share_for


@pytest.mark.parametrize(
    ("nodes", "tasks"),
    [
        ([{"CPU": 16.0, "GPU": 1.0}], 6),  # of the eight that its CPUs would do, as many as its memory holds
        ([{"CPU": 8.0, "GPU": 1.0}], 4),
        ([{"CPU": 7.0, "GPU": 1.0}], 3),
        ([{"CPU": 96.0, "GPU": 8.0}], 6),
        ([{"CPU": 32.0, "GPU": 8.0}], 2),
        ([{"CPU": 8.0, "GPU": 8.0}], 1),
        ([{"CPU": 64.0}, {"CPU": 12.0, "GPU": 2.0}, {"CPU": 64.0, "GPU": 2.0}], 3),
        ([{"GPU": 1.0}], 1),
        ([{"CPU": 64.0}], 1),
    ],
)
def test_tasks_that_share_a_gpu_are_as_many_as_its_cpus_do(nodes: list[dict[str, float]], tasks: int) -> None:
    share = Fraction(str(share_for(nodes)))
    assert share * tasks <= 1 < share * (tasks + 1)
    assert (share * 10_000).denominator == 1, "Ray would round it, perhaps up"
