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
from tests.support.ray_trainings import Training, check_every_key_once_an_epoch, newest_step, undisturbed, weights

EPOCHS = 20

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with ray_nodes(tmp_path_factory, 1) as found:
        yield found


ONE = ("--run.num-workers", "1", "--optim.epochs", str(EPOCHS), "--run.checkpoint-epochs", str(EPOCHS))


@pytest.fixture(scope="module")
def expected(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return undisturbed(tiny_set, tmp_path_factory.mktemp("undisturbed"), 1, *ONE)


def started(nodes: Nodes, data_uri: str, folder: Path, run_id: str, **options: Any) -> Training:
    """Of 100 steps, with a checkpoint every 10."""
    return Training(nodes, data_uri, folder, run_id, *ONE, **options)


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


def check_rest(training: Training, expected: dict[str, torch.Tensor]) -> None:
    assert training.end() == 0, training.output
    check_every_key_once_an_epoch(training, EPOCHS)
    found = weights(training.run)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_refuses_in_the_middle_is_said_once_and_the_rest_follows(
    nodes: Nodes,
    tiny_set: str,
    tmp_path: Path,
    expected: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run: its credentials expire, its bucket becomes read-only, its disk for temporary files fills up."""
    read_only = Faults(denied=1.0, methods=frozenset({"PUT", "POST", "DELETE"}))
    server, temporary = MemoryS3(page=1000), tmp_path / "temporary"
    with contextlib.closing(server), FaultProxy(server.endpoint) as proxy, small_disk(temporary, "16m"):
        for name, value in environment(server.endpoint).items():  # of this process, which looks past the proxy
            monkeypatch.setenv(name, value)
        env = {**environment(proxy.endpoint), "TMPDIR": str(temporary)}

        def start() -> Training:
            return started(nodes, tiny_set, tmp_path, "r", output="s3://bucket/runs", env=env)

        step = 0
        for faults, words in (
            (Faults(expired=1.0), ("s3://bucket/runs/r/", "have expired (ExpiredToken): renew them")),
            (
                read_only,
                ("writing s3://bucket/runs/r/", "is denied (AccessDenied): let these credentials", "name a place"),
            ),
            (None, (f"cannot be written to {temporary}", "No space left", "set TMPDIR to a folder with more")),
        ):
            training = start()
            training.until_step(step + 10)
            if faults is None:
                fill(temporary / "filler")
            else:
                proxy.faults = faults
            check_refusal(training, *words)
            assert list(temporary.glob("reciprocal-*")) == []
            step = newest_step(training.run)
            if faults is read_only:
                check_refusal(start(), words[1].partition(" (")[2])
            proxy.faults = Faults()
        (temporary / "filler").unlink()
        check_rest(start(), expected)
        assert list(temporary.glob("reciprocal-*")) == []
        assert not any("/.lease-" in path for path in server.objects)


def fill(file: Path) -> None:
    """Until its disk is full."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
