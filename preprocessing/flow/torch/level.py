"""One pyramid level of a chunk of pairs: buffers, Triton launches, and their replay as CUDA graphs.

Everything a chunk needs lives in buffers of fixed place, so that a warp is a few recorded graphs: linearise and one
outer iteration, another outer iteration and, where pairs may do with fewer warps, the test for it. The host learns
after each whether any pair is still going; everything finer is decided on the device, pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preprocessing.flow.params import TVL1Params
from preprocessing.flow.torch.geometry import bilinear_taps
from preprocessing.flow.torch.solver import settled_limit, stop_limit
from preprocessing.flow.torch.triton_filters import gradient_kernel, linearise_kernel, median_kernel, resize_kernel
from preprocessing.flow.torch.triton_kernels import iterate_kernel, settle_kernel
from preprocessing.flow.torch.triton_warps import move_kernel, rest_kernel

# The tile decides the order in which changes of flow are added, so another tile is another version of the engine.
TILE_H, TILE_W, WARPS = 16, 64, 8
TILE = {"TILE_H": TILE_H, "TILE_W": TILE_W}

BUFFER_BYTES_PER_PX = 88  # of a level; iterations touch 64 of them: flow and dual twice, the data term once


def tiles_of(height: int, width: int) -> tuple[int, int]:
    """Tiles in a row, and tiles in all."""
    across = -(-width // TILE_W)
    return across, across * -(-height // TILE_H)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel as all of ours run: nothing is contracted that is not written so."""
    kernel[grid](*arguments, **constants, num_warps=WARPS, enable_fp_fusion=False)


class LevelSolver:
    """Solves up to ``pairs`` pairs of one size at once.

    Args:
        pairs: places of the chunk; fewer pairs may be solved, at little cost for the empty places.
        graphs: record CUDA graphs; without them the same kernels are launched one by one.

    Raises:
        torch.OutOfMemoryError: the buffers do not fit.
    """

    def __init__(
        self,
        height: int,
        width: int,
        pairs: int,
        device: torch.device,
        params: TVL1Params,
        graphs: bool,
    ) -> None:
        self.size, self.pairs, self.params = (height, width), pairs, params
        self._across, self._tiles = tiles_of(height, width)
        self._sizes = (height, width, self._across, self._tiles)
        self._grid = (self._tiles, pairs)
        # one width for all ordinary sizes, so that the kernels are compiled once
        self._sums_width = max(256, 1 << (self._tiles - 1).bit_length())
        self._limit, self._settled = stop_limit(params, height, width), settled_limit(params, height, width)

        def buffer(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(pairs, *shape, dtype=kind, device=device)

        self._first, self._second, self._gradient = (
            buffer(height, width),
            buffer(height, width),
            buffer(height, width, 2),
        )
        self._flow, self._dual = (
            [buffer(height, width, 2) for _ in range(2)],
            [buffer(height, width, 4) for _ in range(2)],
        )
        self._filtered = buffer(height, width, 2) if params.median else self._flow[0]
        self._data = buffer(height, width, 4)
        self._sums = [buffer(self._tiles), buffer(self._tiles)]
        self._used, self._going = buffer(kind=torch.int32), buffer(kind=torch.int32)
        self._start = buffer(height, width, 2) if params.settled_px else self._flow[0]
        self._going_host = torch.zeros(pairs, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._begin_warp, self._go_on, self._end_warp = (
            self._record(part).replay if graphs else part
            for part in (self._begin, self._outer_iteration, self._drop_settled)
        )

    def solve(self, first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> None:
        """All warps of the level, in place.

        Args:
            first, second: (n, H, W) float32, n at most ``pairs``.
            flow: (n, H, W, 2) float32, contiguous: start in, result out.
        """
        count = len(flow)
        self._first[:count].copy_(first)
        self._second[:count].copy_(second)
        self._flow[0][:count].copy_(flow)
        self._used[:count] = 1
        self._used[count:] = 0
        self._dual[0].zero_()
        launch(gradient_kernel, self._grid, self._second, self._gradient, *self.size, self._across, **TILE)
        p = self.params
        for warp in range(p.warps):
            for outer in range(p.outer_iterations):
                if outer == 0:
                    self._begin_warp()
                else:
                    self._go_on()
                if outer + 1 < p.outer_iterations and not self._any_going():
                    break
            if p.settled_px and warp + 1 < p.warps:
                self._end_warp()
                if not self._any_going():
                    break
        flow.copy_(self._flow[0][:count])

    def _begin(self) -> None:
        if self.params.settled_px:
            self._start.copy_(self._flow[0])
        launch(
            linearise_kernel,
            self._grid,
            self._first,
            self._second,
            self._gradient,
            self._flow[0],
            self._used,
            self._data,
            *self._sums,
            *self._sizes,
            **TILE,
        )
        self._outer_iteration()

    def _outer_iteration(self) -> None:
        """Median and inner iterations; state is in the first of each pair of buffers before and after."""
        p = self.params
        numbers = (*self._sizes, self._limit)
        weights = (float(p.lambda_ * p.theta), float(p.theta), float(p.tau / p.theta))
        if p.median:
            launch(
                median_kernel,
                self._grid,
                self._flow[0],
                self._sums[0],
                self._filtered,
                *numbers,
                SUMS=self._sums_width,
                **TILE,
            )
        source = self._filtered
        for inner in range(1, p.inner_iterations + 1):
            here, there = (inner - 1) % 2, inner % 2
            launch(
                iterate_kernel,
                self._grid,
                source,
                self._dual[here],
                self._data,
                self._sums[here],
                self._flow[there],
                self._dual[there],
                self._sums[there],
                *numbers,
                *weights,
                SUMS=self._sums_width,
                **TILE,
            )
            source = self._flow[there]
        if p.inner_iterations % 2:
            for buffers in (self._flow, self._dual, self._sums):
                buffers[0].copy_(buffers[1])
        launch(
            settle_kernel, (self.pairs,), self._sums[0], self._going, self._tiles, self._limit, SUMS=self._sums_width
        )
        self._going_host.copy_(self._going, non_blocking=True)

    def _drop_settled(self) -> None:
        """After a warp: pairs that it hardly moved are no longer in use, as empty places are not."""
        moves = self._sums[1]  # free until the next warp begins
        launch(move_kernel, self._grid, self._start, self._flow[0], self._used, moves, *self._sizes, **TILE)
        launch(rest_kernel, (self.pairs,), moves, self._used, self._tiles, self._settled, SUMS=self._sums_width)
        self._going_host.copy_(self._used, non_blocking=True)

    def _any_going(self) -> bool:
        if self._going.is_cuda:
            torch.cuda.current_stream(self._going.device).synchronize()
        return bool(self._going_host.any())

    def _record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """A graph of the launches of ``work``. The places are all empty now, so running it first costs little."""
        work()  # compiles and loads the kernels, which cannot be done while recording
        torch.cuda.synchronize(self._going.device)
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph() would collect garbage and empty the allocator's cache for every graph.
        # thread_local: another thread's CUDA calls (a decoder's) must neither be recorded nor end the recording.
        with torch.cuda.stream(torch.cuda.Stream(self._going.device)):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph


def resize_pictures(
    pictures: torch.Tensor, size: tuple[int, int], ratio: float | None = None, gain: float = 1.0
) -> torch.Tensor:
    """(N, H, W) or (N, H, W, 2), contiguous, to (N, *size[, 2]), bilinear without antialiasing, times ``gain``.

    Args:
        ratio: source pixels per target pixel; by default what maps border to border.
    """
    count, height, width = pictures.shape[:3]
    x = bilinear_taps(width, size[1], ratio or width / size[1], pictures.device)
    y = bilinear_taps(height, size[0], ratio or height / size[0], pictures.device)
    target = pictures.new_empty(count, *size, *pictures.shape[3:])
    across, tiles = tiles_of(*size)
    channels = pictures[0, 0, 0].numel()
    launch(
        resize_kernel,
        (tiles, count),
        pictures,
        target,
        *x,
        *y,
        height,
        width,
        *size,
        across,
        gain,
        CHANNELS=channels,
        **TILE,
    )
    return target
