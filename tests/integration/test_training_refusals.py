"""A training whose bucket, credentials or disk refuse in the middle: one line that says what to do, tried once, nothing
lost and nothing left. Real Ray, an S3 server in memory behind a proxy.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.disks import small_disk
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.memory_s3 import MemoryS3
from tests.support.nth_request import environment
from tests.support.ray_nodes import Nodes, ray_nodes
from tests.support.ray_trainings import Training, check_every_key_once_an_epoch, newest_step, weights

EPOCHS = 20

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with ray_nodes(tmp_path_factory, 1) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    training = started(nodes, tiny_set, tmp_path_factory.mktemp("undisturbed"), "u")
    assert training.end() == 0, training.output
    return weights(training.run)


def started(nodes: Nodes, data_uri: str, folder: Path, run_id: str, **options: Any) -> Training:
    """Of 100 steps, with a checkpoint every 10."""
    more = ["--run.num-workers", "1", "--optim.epochs", str(EPOCHS), "--run.checkpoint-epochs", str(EPOCHS)]
    return Training(nodes, data_uri, folder, run_id, *more, **options)


def check_refusal(training: Training, *words: str) -> None:
    """It has ended with one line that has these words, after one attempt, and left no process and no file."""
    assert training.end(90) == 2, training.output
    lines = [line for line in training.output.splitlines() if line.startswith(("error:", "failed:"))]
    assert len(lines) == 1, training.output
    assert [word for word in words if word not in lines[0]] == []
    assert "in a row, run.max_failures" not in training.output
    assert "Traceback" not in training.output
    deadline = time.monotonic() + 20
    while training.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_rest(training: Training, undisturbed: dict[str, torch.Tensor]) -> None:
    assert training.end() == 0, training.output
    check_every_key_once_an_epoch(training, EPOCHS)
    found = weights(training.run)
    assert all(torch.equal(found[name], tensor) for name, tensor in undisturbed.items())


def test_a_bucket_that_refuses_from_the_middle_on(
    nodes: Nodes,
    tiny_set: str,
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run: its credentials expire, its bucket becomes read-only, and both end."""
    read_only = Faults(denied=1.0, methods=frozenset({"PUT", "POST", "DELETE"}))
    server = MemoryS3(page=1000)
    with contextlib.closing(server), FaultProxy(server.endpoint) as proxy:
        for name, value in environment(server.endpoint).items():  # of this process, which looks past the proxy
            monkeypatch.setenv(name, value)
        common = {"output": "s3://bucket/runs", "env": environment(proxy.endpoint)}
        step = 0
        for faults, words in (
            (Faults(expired=1.0), ("s3://bucket/runs/r/", "have expired (ExpiredToken): renew them")),
            (
                read_only,
                ("writing s3://bucket/runs/r/", "is denied (AccessDenied): let these credentials", "name a place"),
            ),
        ):
            training = started(nodes, tiny_set, tmp_path, "r", **common)
            training.until_step(step + 10)
            proxy.faults = faults
            check_refusal(training, *words)
            assert list(tmp_path.glob("reciprocal-*")) == []
            step = newest_step(training.run)
            if faults is read_only:
                check_refusal(started(nodes, tiny_set, tmp_path, "r", **common), words[1].partition(" (")[2])
            proxy.faults = Faults()
        check_rest(started(nodes, tiny_set, tmp_path, "r", **common), undisturbed)
        assert not any("/.lease-" in path for path in server.objects)


def test_a_full_disk_for_temporary_files(
    nodes: Nodes, tiny_set: str, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    temporary = tmp_path / "temporary"
    with small_disk(temporary, "16m"):
        env = {"TMPDIR": str(temporary)}
        training = started(nodes, tiny_set, tmp_path, "full", env=env)
        training.until_step(10)
        filler = temporary / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        check_refusal(
            training, f"cannot be written to {temporary}", "No space left", "set TMPDIR to a folder with more"
        )
        assert list(temporary.glob("reciprocal-*")) == []
        filler.unlink()
        check_rest(started(nodes, tiny_set, tmp_path, "full", env=env), undisturbed)
        assert list(temporary.glob("reciprocal-*")) == []
