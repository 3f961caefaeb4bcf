"""A training whose storage fails for good, or whose process dies, at any of its storage calls ends with the same
command, and with the same weights.

Every sixth call is tried; all of them with

    RECIPROCAL_FAULTS=all python -m pytest tests/unit/pipeline/training/test_storage_faults.py
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.errors import StorageError
from pipeline.storage import LocalStorage
from pipeline.training.checkpoint import read_samples
from tests.support.training_runs import newest_in, train_here
from tests.unit.pipeline.training.test_damaged_checkpoints import config_for

_CALLS = ("read", "read_range", "write", "write_file", "size", "list", "list_sizes", "delete")
_SHARE = 1 if os.environ.get("RECIPROCAL_FAULTS") == "all" else 6


class FailingStorage(LocalStorage):
    """Fails from its n-th call on, before or after that call is done; 0: never. Calls within a call do not count."""

    def __init__(self, root: str, fails_at: int = 0, *, after: bool = False) -> None:
        super().__init__(root)
        self.calls, self._fails_at, self._after, self._within = 0, fails_at, after, False

    def _call(self, name: str, *args: Any) -> Any:
        if self._within:
            return getattr(LocalStorage, name)(self, *args)
        self.calls += 1
        failing = 0 < self._fails_at <= self.calls
        done = None
        if not failing or (self._after and self.calls == self._fails_at):
            self._within = True
            try:
                done = getattr(LocalStorage, name)(self, *args)
                done = list(done) if name.startswith("list") else done
            finally:
                self._within = False
        if failing:
            raise StorageError(f"call {self.calls} on purpose")
        return done


for _name in _CALLS:
    setattr(FailingStorage, _name, lambda self, *args, name=_name: self._call(name, *args))


def ended(folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    with newest_in(folder) as files:
        return safetensors.torch.load_file(files / "model.safetensors"), read_samples(files)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_failing_at_any_call_costs_nothing_but_steps(tiny_set: str, tmp_path: Path, after: bool) -> None:
    config = config_for(tiny_set, checkpoint_steps=2)
    whole = FailingStorage(str(tmp_path / "whole"))
    train_here(config, CheckpointStore(whole, keep=1))
    weights, keys = ended(tmp_path / "whole")
    failed = 0
    for call in itertools.count(1 + after * (_SHARE // 2), _SHARE):
        if call > whole.calls:
            break
        folder = tmp_path / str(call)
        try:
            train_here(config, CheckpointStore(FailingStorage(str(folder), call, after=after), keep=1))
        except StorageError:
            failed += 1
        train_here(config, CheckpointStore(FailingStorage(str(folder)), keep=1))
        found, used = ended(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items()), call
        assert used == keys, call
        left = [entry.state.value for entry in CheckpointStore(LocalStorage(str(folder))).entries()]
        assert left.count("whole") <= 2, call
        assert "damaged" not in left, call
    print(f"{whole.calls} storage calls; every {_SHARE}th failed, {failed} of which ended the command")
    assert failed >= 3
