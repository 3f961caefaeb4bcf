"""The order of samples: pure functions of (number of samples, seed, epoch), so that a run's place is two integers.

Global batch k of an epoch is a slice of one permutation; rank r of W takes the r-th of W equal parts of it. The
last batch is filled with -1 up to the full size. A run may stop after any step and go on with another W: the
global batches stay what they were. Where fewer ranks cannot hold their larger part at once, they take it in pieces and
add up the gradients (``passes``).
"""

from __future__ import annotations

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
    """Random numbers of one sample in one epoch; they know nothing of ranks, batches or order."""
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


def passes(part: np.ndarray, micro_batch: int) -> list[tuple[int, np.ndarray]]:
    """A rank's part of a global batch, cut into pieces that go through the model one after the other.

    Fewer ranks with smaller pieces see the same pieces as more ranks do: part r of W ranks is piece r of one rank whose
    pieces have that size.

    Args:
        part: from ``rank_slice``.
        micro_batch: samples of a piece, the last may have less; 0: one piece.

    Returns:
        Place in ``part`` and indices of each piece, in order; their number is the same on every rank.
    """
    size = micro_batch or len(part)
    return [(start, part[start : start + size]) for start in range(0, len(part), size)]
