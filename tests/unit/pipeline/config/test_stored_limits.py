"""Numbers of ``--stored`` that no video can have are refused before any work, and not blamed on the videos."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.preprocess import StoredConfig
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("short_side", 20_000, r"even and in 16\.\.4320"),
        ("short_side", 14, r"even and in 16\.\.4320"),
        ("short_side", 255, r"even and in 16\.\.4320"),
        ("fps", 1e6, "up to 1000"),
        ("fps", -1.0, "up to 1000"),
        ("flow_bound", 0.0, "at most 2560 px"),
        ("flow_bound", 1e9, "at most 2560 px"),
        ("gop", 0, r"in 1\.\.10000"),
        ("gop", 10**9, r"in 1\.\.10000"),
    ],
)
def test_a_number_out_of_range_names_field_value_and_range(field: str, value: float, fix: str) -> None:
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=fix) as caught:
        StoredConfig(**wrong)
    assert caught.value.args[:2] == (f"stored.{field}", value)


def test_the_limits_themselves_are_allowed() -> None:
    StoredConfig(short_side=4320, fps=1000.0, flow_bound=43_200.0, gop=10_000)
    StoredConfig(short_side=16, fps=0.0, flow_bound=0.5, gop=1)
