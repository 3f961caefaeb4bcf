"""JSON of ours is read strictly: what is not what it should be is one line, and nothing is converted."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.common.strict_json import JsonError, read_json
from pipeline.common.typed import Range
from pipeline.config.base import as_dict, check_numbers
from pipeline.config.train import OptimConfig, TrainConfig
from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    size: Annotated[int, Range(0, 100)] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    kind: Literal["a", "b"]
    inner: tuple[Inner, ...] = ()
    share: float = 0.0
    on: bool = False
    note: str | None = None
    rest: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_or_refuse(text: str | bytes) -> Outer | None:
    message = "FILE"
    try:
        return read_json(Outer, text, "FILE")
    except JsonError as error:
        message = str(error)
        return None
    finally:
        assert message.startswith("FILE")
        assert len(message.splitlines()) == 1


def refusal(text: str | bytes, kind: Any = Outer) -> str:
    with pytest.raises(JsonError) as caught:
        read_json(kind, text, "FILE")
    assert "FILE" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE is empty"),
        ('{"kind": "a"', "FILE ends too early"),
        ("<html>", "FILE is not JSON: Expecting value (line 1, column 1)"),
        (b"\xff\xfe{}", "FILE is not text"),
        ("[" * 100_000, "FILE is nested too deeply"),
        ('{"kind": "a", "kind": "b"}', "key 'kind' occurs twice"),
        ("9" * 5000, "FILE is not JSON"),
        ("[]", "an array of 0: must be an object"),
        ("{}", "kind = None: it is missing"),
        ('{"kind": "c"}', "kind = 'c': use a or b"),
        ('{"kind": "a", "kin": 1}', "kin = 1: there is no such field; use one of kind, inner,"),
        ('{"kind": "a", "inner": [{"name": "x"}, {"name": 3}]}', "inner[1].name = 3: must be text"),
        ('{"kind": "a", "inner": [{"name": "x", "size": 1.5}]}', "inner[0].size = 1.5: must be a whole number"),
        ('{"kind": "a", "inner": [{"name": "x", "size": 101}]}', "inner[0].size = 101: must be from 0 to 100"),
        ('{"kind": "a", "inner": [{"name": "x", "size": true}]}', "inner[0].size = True: must be a whole number"),
        ('{"kind": "a", "share": NaN}', "share = nan: must be a finite number"),
        ('{"kind": "a", "share": 1e999}', "share = inf: must be a finite number"),
        ('{"kind": "a", "on": 1}', "on = 1: must be true or false"),
        ('{"kind": "a", "note": []}', "note = an array of 0: must be text"),
        ('{"kind": "a", "k\\u001e\\u2028": 1}', "k\\x1e\\u2028 = 1: there is no such field"),
        ('{"kind": "a", "rest": {"x": ' + "[" * 70 + "]" * 70 + "}}", "must be nested at most 64 deep"),
    ],
)
def test_what_is_wrong_is_named(text: str | bytes, message: str) -> None:
    assert message in refusal(text)


def test_values_stay_as_they_are() -> None:
    found = read_json(
        Outer, '{"kind": "a", "share": 3, "inner": [{"name": "caf\\udce9"}], "rest": {"x": [1, "2"]}}', "F"
    )
    assert found == Outer(kind="a", share=3, inner=(Inner(name="caf\udce9"),), rest={"x": [1, "2"]})
    assert isinstance(found.share, int)  # written again as it was read


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {"kind": st.just("a")}, optional=dict.fromkeys(("inner", "share", "on", "note", "rest", "more"), VALUES)
    )
)
def test_any_json_is_read_or_refused_in_one_line(value: dict[str, Any]) -> None:
    found = read_or_refuse(json.dumps(value))
    if found is not None:
        assert math.isfinite(found.share)
        assert as_dict(found) == {**as_dict(Outer(kind="a")), **value}


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_bytes_are_json_or_refused_in_one_line(data: bytes | str) -> None:
    read_or_refuse(data)


def test_numbers_that_no_field_can_mean_are_refused() -> None:
    check_numbers(TrainConfig())
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"(optim\.)?weight_decay = -?(inf|nan): must be"):
            check_numbers(dataclasses.replace(TrainConfig(), optim=OptimConfig(weight_decay=value)))
    with pytest.raises(ConfigError, match=r"optim\.epochs = 'a number of more than 18 digits'"):
        check_numbers(dataclasses.replace(TrainConfig(), optim=OptimConfig(epochs=10**30)))
