"""The keys that a run keeps are whole, or the audit says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.training.checkpoint import CHECKPOINT_VERSION, audit_samples, save_samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint after three steps: one of a single rank, then two of two ranks, resumed."""
    lines = [[(0, 1), (1, 2), (2, 2)], [(1, 2), (2, 2)]]
    for rank, steps in enumerate(lines):
        rows = [{"epoch": 0, "step": s, "rank": rank, "ranks": n, "keys": [f"k{s}-{rank}"]} for s, n in steps]
        save_samples(tmp_path, rank, [json.dumps(row) for row in rows])
    state = {"version": CHECKPOINT_VERSION, "classes": ["a"], "position": {"epoch": 0, "step": 3, "global_step": 3}}
    (tmp_path / "state.json").write_text(json.dumps(state))
    return tmp_path


def test_a_whole_history_has_no_fault(folder: Path) -> None:
    assert audit_samples(folder) == []


def test_a_missing_rank_is_named(folder: Path) -> None:
    (folder / "samples-0001.jsonl").unlink()
    assert audit_samples(folder) == [
        "epoch 0 step 1: keys of rank 1 of 2 are missing",
        "epoch 0 step 2: keys of rank 1 of 2 are missing",
    ]


def test_missing_steps_are_counted(folder: Path) -> None:
    for path in folder.glob("samples-*.jsonl"):
        path.unlink()
    assert audit_samples(folder) == ["keys of 0 steps, but 3 were taken"]


def test_a_line_that_is_cut_off_is_named(folder: Path) -> None:
    path = folder / "samples-0000.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    (problem,) = audit_samples(folder)
    assert problem.startswith("samples-0000.jsonl:3 ends too early")


def test_lines_of_older_code_are_read(folder: Path) -> None:
    for rank in range(2):
        save_samples(folder, rank, [json.dumps({"epoch": 0, "step": s, "keys": ["k"]}) for s in range(3)])
    assert audit_samples(folder) == []
