"""A run's bottleneck follows from where its time went."""

from __future__ import annotations

import pytest

from pipeline.training.timing import StepTimes, find_bottleneck


@pytest.mark.parametrize(
    ("times", "loader", "more", "bound"),
    [
        (StepTimes(10, 5.0, 0.0, 5.0), {"fetch_wait_s": 8.0, "decode_s": 2.0}, {}, "storage"),
        (StepTimes(10, 5.0, 0.0, 5.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {"decode_share": 0.8}, "decode"),
        (StepTimes(10, 5.0, 0.0, 5.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {"decode_share": 0.2}, "augment"),
        (
            StepTimes(10, 0.6, 0.4, 9.0),
            {"fetch_wait_s": 1.0, "decode_s": 9.0},
            {},
            "compute",
        ),  # fixing it would gain 6 % at most
        (StepTimes(10, 1.5, 0.5, 8.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {}, "decode"),
        (StepTimes(10, 0.1, 2.0, 8.0), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "copy"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "compute"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {"exchange_s": 0.4}, "communication"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {"exchange_s": 0.1}, "compute"),
    ],
)
def test_the_bottleneck_is_where_the_trainers_time_goes(
    times: StepTimes, loader: dict[str, float], more: dict[str, float], bound: str
) -> None:
    bottleneck = find_bottleneck(times, loader, **more)
    assert bottleneck.bound == bound
    assert sum(bottleneck.shares.values()) == pytest.approx(1.0)
    assert all(share >= 0 for share in bottleneck.shares.values())
    assert str(bottleneck).startswith(f"{bound}-bound (storage ")


def test_waiting_is_divided_as_the_loader_spent_its_time() -> None:
    shares = find_bottleneck(
        StepTimes(10, 4.0, 1.0, 5.0), {"fetch_wait_s": 3.0, "decode_s": 9.0}, decode_share=2 / 3, exchange_s=0.1
    ).shares
    assert shares == pytest.approx(
        {"storage": 0.1, "decode": 0.2, "augment": 0.1, "copy": 0.1, "compute": 0.4, "communication": 0.1}
    )


def test_an_empty_run_has_a_bottleneck_too() -> None:
    assert find_bottleneck(StepTimes(), {}).bound == "compute"
