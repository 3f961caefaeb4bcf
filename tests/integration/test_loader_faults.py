"""The whole loader, decoding included, on a real S3 server that fails in every way: each key once, or an end with
shard and key.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.loader import Loader, make_loader
from pipeline.dataset.manifest import Manifest, read_manifest, read_records
from pipeline.errors import NotFoundError, StorageError
from pipeline.storage import Storage, open_storage
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.gateway import Gateway, started_gateway

pytest.importorskip("nvidia.dali")
pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(180)]
CLIP = ClipConfig(num_frames=3, crop=32)
TARS = r"\.tar$"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def proxy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(gateway.endpoint, seed=5) as made:
        for name, value in {**gateway.environment, "AWS_ENDPOINT_URL": made.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def stored(
    gateway: Gateway, proxy: FaultProxy, tiny_set: str, request: pytest.FixtureRequest
) -> tuple[Storage, Manifest]:
    """A copy of the tiny set in the bucket, of this test's own."""
    source, target = open_storage(tiny_set), open_storage(f"s3://{gateway.bucket}/{abs(hash(request.node.name))}")
    for path in source.list():
        target.write(path, source.read(path))
    return target, read_manifest(target)


@pytest.fixture
def loader(stored: tuple[Storage, Manifest]) -> Iterator[Callable[..., Loader]]:
    made: list[Loader] = []

    def make(**data: Any) -> Loader:
        config = DataConfig(batch_size=4, decode_threads=1, decoder="dali", **data)
        made.append(
            make_loader(*stored, "train", data=config, clip=CLIP, modalities=("rgb", "flow"), train=True, seed=3)
        )
        return made[-1]

    yield make
    for part in made:
        part.close()
    assert not [
        t.name for t in threading.enumerate() if t.name.startswith(("fetch-", "loader-")) and "proxy" not in t.name
    ]


def keys_of(stored: tuple[Storage, Manifest], shard: str = "") -> set[str]:
    return {s.key for r in read_records(*stored, "train") for s in r.samples if not shard or r.path == shard}


def epochs(
    part: Loader, count: int, *, between: Callable[[int, int], None] = lambda epoch, step: None
) -> list[dict[str, float]]:
    """Weight of each key, epoch by epoch; each key must come once."""
    found = []
    for epoch in range(count):
        weights: list[tuple[str, float]] = []
        for batch in part.iter_epoch(epoch):
            weights += [(key, float(w)) for key, w in zip(batch.keys, batch.weights, strict=True) if key]
            between(epoch, batch.step)
        assert max(Counter(key for key, _ in weights).values()) == 1
        found.append(dict(weights))
    return found


@pytest.mark.parametrize(
    ("faults", "kind", "repeated"),
    [
        (Faults(slow_down=0.1, path=TARS), "slow_down", True),
        (Faults(cut_answer=0.1, path=TARS), "cut_answer", True),
        (Faults(reset=0.1, path=TARS), "reset", True),
        (Faults(delay=0.03, delay_s=(5.0, 5.0), path=TARS), "delay", False),
    ],
    ids=["503", "cut", "reset", "delayed"],
)
def test_faults_that_pass_cost_time_alone(
    stored, loader, proxy: FaultProxy, faults: Faults, kind: str, repeated: bool
) -> None:
    part, keys = loader(), keys_of(stored)
    proxy.counts.clear()
    proxy.faults = faults
    assert epochs(part, 6) == [dict.fromkeys(keys, 1.0)] * 6
    assert proxy.counts[kind] >= 2, "they really came"
    metrics = part.metrics()
    assert metrics["requests"] == 6 * len(keys)
    assert metrics["retries"] == (proxy.counts[kind] if repeated else 0)
    assert metrics["damaged"] == 0
    assert metrics["samples"] == 6 * len(keys)


def test_a_server_killed_and_restarted_in_mid_epoch_costs_time_alone(stored, loader, gateway: Gateway) -> None:
    part, keys = loader(), keys_of(stored)
    back = threading.Timer(2.0, gateway.start)

    def between(epoch: int, step: int) -> None:
        if (epoch, step) == (1, 0):
            gateway.kill()
            back.start()

    assert epochs(part, 3, between=between) == [dict.fromkeys(keys, 1.0)] * 3
    back.join()
    assert part.metrics()["retries"] > 0
    assert part.metrics()["requests"] == 3 * len(keys)


def test_a_flipped_byte_costs_its_sample_alone(stored, loader) -> None:
    storage, manifest = stored
    record = read_records(storage, manifest, "train")[1]
    victim = record.samples[1]
    tar = bytearray(storage.read(f"{record.path}.tar"))
    tar[victim.member("flow.mp4").offset + 50] ^= 1
    storage.write(f"{record.path}.tar", bytes(tar))
    part = loader()
    assert epochs(part, 2) == [{key: float(key != victim.key) for key in keys_of(stored)}] * 2
    metrics = part.metrics()
    assert metrics["damaged"] == 1
    assert metrics["requests"] == 2 * (len(keys_of(stored)) + 1), "a second GET before it counts as damaged"


def test_a_deleted_shard_ends_with_its_name_and_a_key_of_it(stored, loader) -> None:
    storage, manifest = stored
    path = read_records(storage, manifest, "train")[1].path
    storage.delete(f"{path}.tar")
    part, began_s = loader(fetch_deadline_s=20.0), time.monotonic()
    with pytest.raises(NotFoundError) as caught:
        epochs(part, 1)
    assert time.monotonic() - began_s < 10
    assert f"{path}.tar" in str(caught.value)
    assert any(f"sample {key} " in str(caught.value) for key in keys_of(stored, path))


@pytest.mark.parametrize("fault", ["silent", "trickling", "down"])
def test_a_server_that_does_not_answer_ends_within_the_deadline(stored, loader, proxy: FaultProxy, fault: str) -> None:
    part = loader(fetch_deadline_s=6.0)
    first = next(part.iter_epoch(0)).keys[0]
    if fault == "down":
        proxy.down()
    else:
        proxy.faults = Faults(stall=1.0, stall_s=3600, path=TARS) if fault == "silent" else Faults(bytes_per_s=20)
    began_s = time.monotonic()
    with pytest.raises(StorageError) as caught:
        epochs(part, 1)
    assert time.monotonic() - began_s < 6.0 + 2.0
    assert f"sample {first} in s3://" in str(caught.value)
    assert ".tar" in str(caught.value)
    if fault == "down":
        proxy.up()


def test_a_cache_takes_the_load_off_a_failing_server(stored, loader, proxy: FaultProxy, tmp_path) -> None:
    part, keys = loader(cache_dir=str(tmp_path / "cache"), cache_gb=1), keys_of(stored)
    assert epochs(part, 1) == [dict.fromkeys(keys, 1.0)]
    assert part.metrics()["cache_misses"] == len(keys)
    damaged = next(p for p in (tmp_path / "cache").glob("??/*"))
    damaged.write_bytes(damaged.read_bytes()[:-10] + os.urandom(10))
    assert epochs(part, 1) == [dict.fromkeys(keys, 1.0)]
    assert part.metrics()["requests"] == len(keys) + 1
    proxy.down()
    assert epochs(part, 2) == [dict.fromkeys(keys, 1.0)] * 2, "all from the disk"
    assert part.metrics()["cache_hits"] == 3 * len(keys) - 1
    proxy.up()
