"""2,000 batches through the real loader, DALI and an S3 server included: nothing grows."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.storage import open_storage
from tests.support.gateway import Gateway, started_gateway

pytest.importorskip("nvidia.dali")
pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(240)]
BATCHES = 2000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def held() -> tuple[int, int]:
    """Open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts memory, files and threads in /proc")
@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_two_thousand_batches_grow_nothing(
    gateway: Gateway, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    source, target = open_storage(tiny_set), open_storage(f"s3://{gateway.bucket}/soak")
    for path in source.list():
        target.write(path, source.read(path))
    manifest = read_manifest(target)
    # The cache is smaller than the data set, so that there are GETs as well as hits.
    cache = {"cache_dir": str(tmp_path / "cache"), "cache_gb": 5e-5} if cached else {}
    data = DataConfig(batch_size=1, decode_threads=1, decoder="dali", fetch_threads=8, **cache)
    memory_mb: list[float] = []
    counts: list[tuple[int, int]] = []
    epoch = 0
    with make_loader(
        target,
        manifest,
        "train",
        data=data,
        clip=ClipConfig(num_frames=3, crop=32),
        modalities=("rgb",),
        train=True,
        seed=0,
    ) as loader:
        while len(memory_mb) < BATCHES:
            for batch in loader.iter_epoch(epoch):
                assert batch.weights.tolist() == [1.0]
                memory_mb.append(resident_mb())
                if batch.step == loader.num_steps() // 2:
                    counts.append(held())
                del batch
            epoch += 1
        metrics = loader.metrics()
    quarter = BATCHES // 4
    second, last = (sum(memory_mb[a : a + quarter]) / quarter for a in (quarter, 3 * quarter))
    print(
        f"resident {second:.1f} MB in the second quarter, {last:.1f} MB in the last; files and threads"
        f" {counts[len(counts) // 4]} and {counts[-1]}; {metrics}"
    )
    assert last < 1.02 * second
    early, late = counts[len(counts) // 4 : len(counts) // 2], counts[-len(counts) // 4 :]
    for which, name in enumerate(("files", "threads")):
        # Each fetching thread opens its connection when it is first needed, however late that is. A file or thread that
        # every epoch left behind would be dozens.
        assert max(c[which] for c in late) <= max(c[which] for c in early) + data.fetch_threads, (
            f"{name}: {[c[which] for c in counts]}"
        )
    if cached:
        assert metrics["cache_hits"] > 0
        assert metrics["cache_misses"] > 0
        assert metrics["cache_hits"] + metrics["cache_misses"] == metrics["samples"]
