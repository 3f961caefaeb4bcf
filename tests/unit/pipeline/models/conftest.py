"""Model tests: one thread, fixed seed, random state restored."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_seeded_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
