"""What is said about a run's bottleneck follows from where its time went."""

from __future__ import annotations

import pytest

from pipeline.training.bottleneck import find_bottleneck
from pipeline.training.timing import StepTimes


@pytest.mark.parametrize(
    ("times", "loader", "more", "bound", "next_"),
    [
        (StepTimes(10, 6.0, 0.0, 4.0), {"fetch_wait_s": 8.0, "decode_s": 2.0}, {}, "storage", ""),
        (StepTimes(10, 6.0, 0.0, 4.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {"decode_share": 0.8}, "decode", ""),
        (StepTimes(10, 6.0, 0.0, 4.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {"decode_share": 0.2}, "augment", ""),
        # of two equal shares the one that can be removed
        (StepTimes(10, 5.0, 0.0, 5.0), {"fetch_wait_s": 8.0, "decode_s": 2.0}, {}, "storage", ""),
        # computing takes 86 %: nothing else may be called the bottleneck, but 13 % are worth saying
        (StepTimes(10, 1.3, 0.1, 8.6), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {}, "compute", "decode"),
        (StepTimes(10, 0.6, 0.4, 9.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {}, "compute", ""),
        (StepTimes(10, 0.1, 2.0, 8.0), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "compute", "copy"),
        (StepTimes(10, 0.1, 6.0, 4.0), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "copy", ""),
        (StepTimes(10, 0.1, 0.1, 9.8, 4.0), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {}, "compute", "communication"),
        (StepTimes(10, 0.1, 0.1, 9.8, 5.5), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {}, "communication", ""),
        (StepTimes(10, 3.0, 0.0, 7.0, 4.0), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "communication", "storage"),
    ],
)
def test_the_bottleneck_takes_the_largest_share_of_the_time(
    times: StepTimes, loader: dict[str, float], more: dict[str, float], bound: str, next_: str
) -> None:
    bottleneck = find_bottleneck(times, loader, **more)
    assert (bottleneck.bound, bottleneck.next) == (bound, next_)
    assert sum(bottleneck.shares.values()) == pytest.approx(1.0)
    assert all(share >= 0 for share in bottleneck.shares.values())
    assert str(bottleneck).startswith(f"{bound}-bound (storage ")
    assert (f". Next, {next_}: " in str(bottleneck)) == bool(next_)


def test_waiting_is_divided_as_the_loader_spent_its_time() -> None:
    times = StepTimes(10, 4.0, 1.0, 5.0, 1.0)
    shares = find_bottleneck(times, {"fetch_wait_s": 3.0, "decode_s": 9.0}, decode_share=2 / 3).shares
    assert shares == pytest.approx(
        {"storage": 0.1, "decode": 0.2, "augment": 0.1, "copy": 0.1, "compute": 0.4, "communication": 0.1}
    )


def test_an_empty_run_has_a_bottleneck_too() -> None:
    assert find_bottleneck(StepTimes(), {}).bound == "compute"
