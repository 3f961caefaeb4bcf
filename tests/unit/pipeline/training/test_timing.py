"""The verdict on a run follows from where its time went."""

from __future__ import annotations

import pytest

from pipeline.training.timing import StepTimes, judge


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
        ),  # all mending could gain is 6 %
        (StepTimes(10, 1.5, 0.5, 8.0), {"fetch_wait_s": 1.0, "decode_s": 9.0}, {}, "decode"),
        (StepTimes(10, 0.1, 2.0, 8.0), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "copy"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 9.0, "decode_s": 1.0}, {}, "compute"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {"exchange_s": 0.4}, "communication"),
        (StepTimes(10, 0.1, 0.1, 9.8), {"fetch_wait_s": 0.0, "decode_s": 1.0}, {"exchange_s": 0.1}, "compute"),
    ],
)
def test_bound(times: StepTimes, loader: dict[str, float], more: dict[str, float], bound: str) -> None:
    verdict = judge(times, loader, **more)
    assert verdict.bound == bound
    assert sum(verdict.shares.values()) == pytest.approx(1.0)
    assert all(share >= 0 for share in verdict.shares.values())
    assert str(verdict).startswith(f"{bound}-bound (storage ")


def test_waiting_is_divided_as_the_loader_spent_its_time() -> None:
    shares = judge(
        StepTimes(10, 4.0, 1.0, 5.0), {"fetch_wait_s": 3.0, "decode_s": 9.0}, decode_share=2 / 3, exchange_s=0.1
    ).shares
    assert shares == pytest.approx(
        {"storage": 0.1, "decode": 0.2, "augment": 0.1, "copy": 0.1, "compute": 0.4, "communication": 0.1}
    )


def test_an_empty_run_has_a_verdict_too() -> None:
    assert judge(StepTimes(), {}).bound == "compute"
