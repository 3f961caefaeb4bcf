"""Which source goes into which shard, from the list and the sizes alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from preprocessing.annotations import Annotations, Source
from preprocessing.shard.plan import plan_shards


def annotations_of(*names: str, split: str = "train") -> Annotations:
    return Annotations(classes=("a", "b"), sources=tuple(Source(path=n, label=0, split=split) for n in names))


def test_a_missing_file_is_neither_present_nor_counted_and_an_empty_one_is() -> None:
    listed = annotations_of("here.mp4", "empty.mp4", "gone.mp4")
    (plan,) = plan_shards(listed, {"here.mp4": 7, "empty.mp4": 0}, 10)
    assert {planned.source.path for planned in plan.present} == {"here.mp4", "empty.mp4"}
    assert [planned.source.path for planned in plan.missing] == ["gone.mp4"]
    assert plan.num_bytes == 7


def test_a_file_that_arrives_changes_its_shards_fingerprint_and_no_other() -> None:
    listed = annotations_of(*(f"{i}.mp4" for i in range(9)))
    sizes = {f"{i}.mp4": 5 for i in range(9)}
    without = plan_shards(listed, {n: s for n, s in sizes.items() if n != "4.mp4"}, 3)
    for size in (5, 0):
        plans = plan_shards(listed, {**sizes, "4.mp4": size}, 3)
        changed = [
            new.path for old, new in zip(without, plans, strict=True) if old.sources_sha256 != new.sources_sha256
        ]
        assert changed == [plan.path for plan in plans if "4.mp4" in {s.path for s in plan.sources}]


@given(num_sources=st.integers(1, 60), at_most=st.integers(1, 20), split=st.sampled_from(("train", "val", "test")))
def test_every_source_is_in_one_shard_and_shards_are_nearly_equal(num_sources: int, at_most: int, split: str) -> None:
    names = [f"class/{i}.mp4" for i in range(num_sources)]
    plans = plan_shards(annotations_of(*names, split=split), {}, at_most)
    lengths = [len(plan.inputs) for plan in plans]
    assert Counter(s.path for plan in plans for s in plan.sources) == Counter(names)
    assert max(lengths) <= at_most
    assert max(lengths) - min(lengths) <= 1
    assert len(plans) == -(-num_sources // at_most), "as few shards as hold them"
    assert [plan.path for plan in plans] == [f"{split}/shard-{i:06d}" for i in range(len(plans))]


def test_the_order_is_that_of_the_names_sha256_whatever_the_lists_order() -> None:
    names = [f"{i}.mp4" for i in range(12)]
    expected = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for order in (names, names[::-1]):
        plans = plan_shards(annotations_of(*order), {}, 5)
        assert [s.path for plan in plans for s in plan.sources] == expected


def test_a_name_that_is_not_utf_8_has_its_place_by_its_bytes() -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9.mp4", b"a.mp4", b"\xff\xfe.mp4")]
    expected = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).hexdigest())
    (plan,) = plan_shards(annotations_of(*names), {}, 5)
    assert [s.path for s in plan.sources] == expected


def test_the_fingerprint_is_that_of_stored_records() -> None:
    """It decides whether a stored shard is kept, so no change of code may change it: spelled out here."""
    parts = (
        Source(path="a.mp4", label=1, split="val", start_s=1.5, end_s=4.0),
        Source(path="b.mp4", label=0, split="val"),
    )
    (plan,) = plan_shards(Annotations(classes=("x", "y"), sources=parts), {"a.mp4": 9}, 5)
    rows = {"a.mp4": [parts[0].name, 1, "y", 1.5, 4.0, 9], "b.mp4": ["b.mp4", 0, "x", None, None, -1]}
    text = json.dumps([rows[source.path] for source in plan.sources])
    assert plan.sources_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_source_listed_twice_is_refused_with_both_names() -> None:
    with pytest.raises(UserError, match=r"'x\.mp4' and 'x\.mp4' are one sample: list every video"):
        plan_shards(annotations_of("x.mp4", "y.mp4", "x.mp4"), {}, 5)
    with pytest.raises(ValueError, match="samples_per_shard = 0"):
        plan_shards(annotations_of("x.mp4"), {}, 0)
