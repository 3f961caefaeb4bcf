"""What is held out for validation: whole sources, of every class, the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sampling.hold_out import held_out, source_group


@pytest.mark.parametrize(
    ("name", "pattern", "group"),
    [
        ("v_ApplyEyeMakeup_g08_c01", "", "g08"),
        ("v_HandstandPushups_g25_c04", "", "g25"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "", "April_09_brush_hair"),
        ("Silverado_climb_f_cm_np1_le_med_24", "", "Silverado_climb"),
        ("0wR5jVB-WPk_000417_000427", "", "0wR5jVB-WPk"),
        ("holiday", "", "holiday"),
        ("utset1_seq04_21_handshake", r"seq\d+", "seq04"),
        ("utset1_seq04_21_handshake", r"^utset(\d)", "1"),
        ("v_ApplyEyeMakeup_g08_c01", r"seq\d+", "v_ApplyEyeMakeup_g08_c01"),
    ],
)
def test_the_source_of_a_name(name: str, pattern: str, group: str) -> None:
    assert source_group(name, pattern) == group


def test_a_source_that_shows_every_class_is_held_out_whole() -> None:
    groups = [f"seq{s:02d}" for s in range(14) for _ in range(6)]
    labels = np.array([c for _ in range(14) for c in range(6)])
    kept_back = held_out(groups, labels, 0.2)
    assert np.bincount(labels[kept_back]).tolist() == [3] * 6  # 14 * 0.2 = 2.8
    assert not set(np.array(groups)[kept_back]) & set(np.array(groups)[~kept_back])
    # The first three of the order that `sha256sum` gives the names.
    assert sorted(set(np.array(groups)[kept_back])) == ["seq00", "seq02", "seq08"]


def test_the_order_of_samples_does_not_matter() -> None:
    groups, labels = [f"s{i // 4}" for i in range(80)], np.arange(80) // 8
    order = np.random.default_rng(3).permutation(80)
    assert (held_out([groups[i] for i in order], labels[order], 0.3) == held_out(groups, labels, 0.3)[order]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=120),
    st.sampled_from([0.1, 0.2, 0.5, 0.9]),
)
def test_sources_stay_together_and_every_class_keeps_samples_to_train_on(rows, share: float) -> None:
    groups, labels = [f"s{g}" for g, _ in rows], np.array([label for _, label in rows])
    kept_back = held_out(groups, labels, share)
    assert not set(np.array(groups)[kept_back]) & set(np.array(groups)[~kept_back])
    assert set(labels[~kept_back]) == set(labels)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_single_videos_come_to_the_share_of_each_class(share: float) -> None:
    labels = np.repeat(np.arange(3), [40, 80, 20])
    kept_back = held_out([f"clip {i}" for i in range(140)], labels, share)
    assert np.bincount(labels[kept_back]).tolist() == [40 * share, 80 * share, 20 * share]
