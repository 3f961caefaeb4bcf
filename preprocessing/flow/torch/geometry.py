"""What the plain-torch and the Triton solver share: sizes of the pyramid, tables of the bilinear resize, the median's
network.

All of it is small, exact and computed on the host, so that both solvers resize with the same weights and sort with the
same comparators.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

MIN_SIDE_PX = 16
CUBIC_A = -0.75  # OpenCV's constant of the cubic kernel (Keys 1981 has -0.5)
EPS_GRADIENT = float(np.finfo(np.float32).eps)  # smallest squared gradient the data term divides by

Taps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def level_sizes(height: int, width: int, scales: int, step: float) -> list[tuple[int, int]]:
    """(height, width) of every pyramid level, finest first; stops before a side would fall below 16 pixels.

    The finest level is always there. Sizes round half to even, as OpenCV's resize does.
    """
    sizes = [(height, width)]
    while len(sizes) < scales:
        size = (round(sizes[-1][0] * step), round(sizes[-1][1] * step))
        if min(size) < MIN_SIDE_PX:
            break
        sizes.append(size)
    return sizes


@functools.lru_cache(maxsize=256)
def bilinear_taps(source: int, target: int, ratio: float, device: torch.device) -> Taps:
    """Where each of ``target`` samples of a bilinear resize lies between ``source`` samples. Kept on the device: a copy
    to it waits for all that it still has to do.

    Args:
        ratio: source samples per target sample; not exactly source / target where the size was rounded.

    Returns:
        (target,) int32 index of the left sample, int32 index of the right one, float32 weight of the right one.
        Centres map to (i + 0.5) * ratio - 0.5 and are clamped to the picture.
    """
    at = (np.arange(target, dtype=np.float64) + 0.5) * ratio - 0.5
    left = np.floor(at).astype(np.int32)
    weight = (at - left).astype(np.float32)
    weight[(left < 0) | (left >= source - 1)] = 0.0
    left = left.clip(0, source - 1)
    right = np.minimum(left + 1, source - 1).astype(np.int32)
    return torch.from_numpy(left).to(device), torch.from_numpy(right).to(device), torch.from_numpy(weight).to(device)


@functools.cache
def median_network() -> tuple[tuple[tuple[int, int], ...], int]:
    """Comparators (i, j), i < j, of the median of 25 values, and the place it ends at: a comparator puts the smaller
    value at i.

    Forgetful selection: of any 14 of the 25 values neither the smallest nor the largest can be the median, since 13
    values are on its one side or equal to it. Drop both, add one more value, and continue with 13, 12, ... until three
    are left.
    """
    network: list[tuple[int, int]] = []
    pool, waiting = list(range(14)), list(range(14, 25))
    while len(pool) > 1:
        half = len(pool) // 2
        low, high = pool[:half], pool[-half:]
        middle = pool[half : len(pool) - half]  # the odd one out, if there is one
        network += zip(low, high, strict=True)
        # the smallest of all travels to low[0], the largest to high[-1]; an odd one meets both
        network += [(low[0], i) for i in [*low[1:], *middle]]
        network += [(i, high[-1]) for i in [*high[:-1], *middle]]
        pool = pool[1:-1]
        if waiting:
            pool.append(waiting.pop(0))
    return tuple(network), pool[0]


def median_of_25(values: list[torch.Tensor]) -> torch.Tensor:
    """Elementwise median of 25 tensors of one shape, by minima and maxima only: exact, and without sorting."""
    values = list(values)
    network, place = median_network()
    for i, j in network:
        values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])
    return values[place]
