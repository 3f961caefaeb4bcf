"""The order of samples: pure functions of (number of samples, seed, epoch), so that a run's place is two integers.

Global batch k of an epoch is a slice of one permutation; rank r of W takes the r-th of W equal parts of it. The
last batch is filled with -1 up to the full size. A run may stop after any step and resume with another W: the
global batches stay what they were. Where fewer ranks cannot hold their larger part at once, they take it in
micro-batches and add up the gradients.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from pipeline.errors import ConfigError

FILLER = -1


def _generator(*parts: object) -> np.random.Generator:
    # Philox takes a 128-bit key: any two different part lists give independent streams, in any process.
    text = "\x1f".join(str(part) for part in parts)
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little"))
    )


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Random numbers of one sample in one epoch; they do not depend on ranks, batches or order."""
    return _generator("sample", seed, epoch, key)


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """Indices of all samples in the epoch's order: (num_samples,) int64."""
    if not shuffle:
        return np.arange(num_samples, dtype=np.int64)
    return _generator("order", seed, epoch).permutation(num_samples).astype(np.int64)


def num_steps(num_samples: int, batch_size: int) -> int:
    """Global batches of an epoch, the last one filled up."""
    return -(-num_samples // batch_size)


def global_batch(order: np.ndarray, step: int, batch_size: int) -> np.ndarray:
    """Indices of global batch ``step``: (batch_size,) int64, with -1 for the fillers of the last batch."""
    if not 0 <= step < num_steps(len(order), batch_size):
        raise IndexError(f"step {step} is outside 0..{num_steps(len(order), batch_size) - 1}")
    part = order[step * batch_size : (step + 1) * batch_size]
    return np.concatenate([part, np.full(batch_size - len(part), FILLER, dtype=np.int64)])


def rank_batch_size(batch_size: int, world_size: int) -> int:
    """Samples of a global batch that each rank takes.

    Raises:
        ConfigError: the batch does not divide by the number of ranks.
    """
    if batch_size % world_size:
        below = batch_size // world_size * world_size
        near = " or ".join(str(b) for b in (below, below + world_size) if b > 0)
        raise ConfigError("data.batch_size", batch_size, f"does not divide by {world_size} ranks: use {near}")
    return batch_size // world_size


def rank_slice(indices: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Rank ``rank``'s part of a global batch.

    Raises:
        ConfigError: the batch does not divide by the number of ranks.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
    part = rank_batch_size(len(indices), world_size)
    return indices[rank * part : (rank + 1) * part]


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """The samples that one rank takes through the model at once: its part of a step, or a part of that part."""

    step: int
    index: int
    """Which of the ``count`` micro-batches of this rank's step it is; ranks have equally many."""
    count: int
    offset: int
    """Place of its first sample in the global batch."""
    samples: np.ndarray
    """(n,) int64 indices, ``FILLER`` at the end of an epoch's last batch."""

    @property
    def stored(self) -> list[int]:
        """The samples without the fillers, which stand at the end."""
        return [int(i) for i in self.samples if i != FILLER]


def micro_batches(
    order: np.ndarray, step: int, *, batch_size: int, micro_batch: int, rank: int, world_size: int
) -> list[MicroBatch]:
    """Rank ``rank``'s part of global batch ``step``, cut into what goes through the model one after the other.

    Fewer ranks with smaller micro-batches see the same ones as more ranks do: part r of W ranks is micro-batch r of one
    rank whose micro-batches have that size.

    Args:
        order: of the epoch, from ``epoch_order``.
        micro_batch: samples of a micro-batch, the last may have fewer; 0: the whole part is one.

    Raises:
        ConfigError: the batch does not divide by the number of ranks.
    """
    part = rank_slice(global_batch(order, step, batch_size), rank, world_size)
    size = micro_batch or len(part)
    starts = range(0, len(part), size)
    return [
        MicroBatch(step, index, len(starts), rank * len(part) + start, part[start : start + size])
        for index, start in enumerate(starts)
    ]
