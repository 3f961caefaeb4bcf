"""TV-L1 on the GPU: the algorithm of OpenCV's DualTVL1 over many pairs at once, by Triton kernels.

A clip is solved in groups of pairs, level by level, and on each level in chunks; coarse levels take more pairs into a
chunk than fine ones. A chunk fills the GPU rather than its cache: on an H200, 9 pairs whose state stays in the L2 cache
went through at 507 pairs/s, 32 at 679 and 128 at 761. Memory is bounded by the group, not by the clip. Neither group
nor chunk changes a bit of the result.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.config.base import require
from pipeline.errors import ReciprocalError
from preprocessing.flow.base import FlowEngine, check_gray
from preprocessing.flow.params import FlowMode, TVL1Params, params_of
from preprocessing.flow.torch.device import find_device, runs_triton
from preprocessing.flow.torch.geometry import level_sizes
from preprocessing.flow.torch.solver import solve_pairs

if TYPE_CHECKING:
    from preprocessing.flow.torch.level import LevelSolver

log = logging.getLogger(__name__)

CHUNK_PX = 128 * 340 * 256  # of a chunk, where memory allows: more is hardly faster
MEMORY_SHARE = 1 / 32  # of the GPU's, for the buffers of one level's chunk; all levels and a group take 4 times as much
MOST_CHUNK_PAIRS = 256  # of tiny pictures
CPU_CHUNK_PAIRS = 4  # where kernels are interpreted every empty place of a chunk costs time
CHUNKS_PER_GROUP = 4  # of the finest level
SIZES_KEPT = 4  # picture sizes whose buffers and graphs stay


class TorchTVL1(FlowEngine):
    """Duality-based TV-L1 (Zach, Pock, Bischof 2007) with a stop test per pair, on CUDA.

    Args:
        params: by default those of the mode.
        mode: as records name it.
        device: ``auto``, ``cuda``, ``cuda:N`` or ``cpu``. Without a GPU the Triton kernels run where TRITON_INTERPRET=1
            is set (for tests), else plain torch does, slowly, and says so. With a GPU there is no such way out.
        chunk_pairs: pairs per chunk, on every level; by default by their pixels and the GPU's memory. Speed alone
            depends on it.
        graphs: replay CUDA graphs; by default on CUDA.

    Raises:
        ConfigError: the device is not there, or Triton is not, or there is no such mode.
    """

    name = "torch"
    version = "1"

    def __init__(
        self,
        params: TVL1Params | None = None,
        mode: FlowMode = "tvl1",
        device: str = "auto",
        *,
        chunk_pairs: int | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.params, self.mode = params or params_of(mode), mode
        self.device = find_device(device)
        self.uses_triton = runs_triton(self.device)
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        require(not (self.graphs and self.device.type != "cuda"), "graphs", graphs, "CUDA graphs need a CUDA device")
        require(chunk_pairs is None or chunk_pairs > 0, "chunk_pairs", chunk_pairs, "use a positive number")
        self._chunk_pairs = chunk_pairs
        self._most_pairs = 1 << 15  # halved when memory runs out; a grid takes 65535
        self._levels: collections.OrderedDict[tuple[int, int], list[LevelSolver]] = collections.OrderedDict()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "stop_test_every": 1,  # as records of stored data sets have it
            # Another version of Triton may take a sum's terms in another order.
            "arithmetic": f"triton {importlib.metadata.version('triton')}" if self.uses_triton else "torch",
        }

    def flow(self, gray_THW: np.ndarray) -> np.ndarray:
        """See ``FlowEngine.flow``.

        Raises:
            ReciprocalError: not even one pair of this size fits the GPU's memory.
        """
        check_gray(gray_THW)
        pairs, height, width = len(gray_THW) - 1, *gray_THW.shape[1:]
        result = np.empty((pairs, 2, height, width), np.float32)
        waiting: tuple[slice, torch.Tensor, torch.cuda.Event | None] | None = None
        start = 0
        while start < pairs:
            part = slice(start, min(pairs, start + self.group_pairs(height, width)))
            try:
                frames = torch.tensor(gray_THW[part.start : part.stop + 1]).to(self.device)
                solved = self._solve(frames[:-1], frames[1:])
            except RuntimeError as error:
                self._halve(part.stop - part.start, height, width, error)
                continue
            # the copy runs while the next group is solved
            ready = self._to_host(solved)
            _collect(result, waiting)
            waiting, start = (part, *ready), part.stop
        _collect(result, waiting)
        return result

    def flow_pairs(self, first_NHW: torch.Tensor, second_NHW: torch.Tensor) -> torch.Tensor:
        """Flow of pairs that are on the device already: (N, H, W) uint8 twice to (N, 2, H, W) float32 on the device.

        Raises:
            ValueError: another shape, dtype or device. ReciprocalError: as ``flow``.
        """
        for frames in (first_NHW, second_NHW):
            if (
                frames.ndim != 3
                or frames.dtype != torch.uint8
                or frames.shape != first_NHW.shape
                or frames.device != self.device
            ):
                got = f"{frames.dtype} {tuple(frames.shape)} on {frames.device}"
                raise ValueError(f"expected uint8 (N, H, W) on {self.device} twice, got {got}")
        count, height, width = first_NHW.shape
        result = torch.empty(count, 2, height, width, device=self.device)
        start = 0
        while start < count:
            stop = min(count, start + self.group_pairs(height, width))
            try:
                result[start:stop] = self._solve(first_NHW[start:stop], second_NHW[start:stop])
            except RuntimeError as error:
                self._halve(stop - start, height, width, error)
                continue
            start = stop
        return result

    def chunk_pairs(self, height: int, width: int) -> int:
        """Pairs of a chunk on a level of this size."""
        if self._chunk_pairs is not None:
            return self._chunk_pairs
        if self.device.type == "cpu":
            return CPU_CHUNK_PAIRS
        from preprocessing.flow.torch.level import BUFFER_BYTES_PER_PX

        memory = torch.cuda.get_device_properties(self.device).total_memory
        return chunk_of(height * width, memory, BUFFER_BYTES_PER_PX)

    def group_pairs(self, height: int, width: int) -> int:
        """Pairs that are solved together, from the coarsest level to the finest."""
        return min(self.chunk_pairs(height, width) * CHUNKS_PER_GROUP, self._most_pairs)

    def _solve(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(n, H, W) uint8 twice to (n, 2, H, W) float32."""
        if not self.uses_triton:
            return solve_pairs(first.float(), second.float(), self.params)
        from preprocessing.flow.torch.level import resize_pictures

        step = self.params.scale_step
        shared = _are_neighbours(first, second)
        with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
            levels = self._solvers(*first.shape[1:])
            # frames that pairs share are scaled down once
            frames = [torch.cat((first, second[-1:]))] if shared else [first, second]
            pyramids = [[each.contiguous().float() for each in frames]]
            for level in levels[1:]:
                pyramids.append([resize_pictures(each, level.size, 1 / step) for each in pyramids[-1]])
            flow = torch.zeros(len(first), *levels[-1].size, 2, device=self.device)
            for level, frames in zip(reversed(levels), reversed(pyramids), strict=True):
                if flow.shape[1:3] != level.size:
                    flow = resize_pictures(flow, level.size, gain=1 / step)
                before, after = (frames[0][:-1], frames[0][1:]) if shared else frames
                for at in range(0, len(flow), level.pairs):
                    chunk = slice(at, at + level.pairs)
                    level.solve(before[chunk], after[chunk], flow[chunk])
            return flow.permute(0, 3, 1, 2).contiguous()

    def _solvers(self, height: int, width: int) -> list[LevelSolver]:
        """Solvers of all levels, finest first; those of the last few sizes are kept."""
        from preprocessing.flow.torch.level import LevelSolver

        key = (height, width)
        if key in self._levels:
            self._levels.move_to_end(key)
            return self._levels[key]
        if len(self._levels) >= SIZES_KEPT:
            self._settle()
            self._levels.popitem(last=False)
        group = self.group_pairs(height, width)
        self._levels[key] = [
            LevelSolver(h, w, min(group, self.chunk_pairs(h, w)), self.device, self.params, self.graphs)
            for h, w in level_sizes(height, width, self.params.scales, self.params.scale_step)
        ]
        return self._levels[key]

    def _halve(self, pairs: int, height: int, width: int, error: RuntimeError) -> None:
        """After memory ran out with ``pairs`` pairs: release what is kept and continue with half as many.

        The allocator raises an OutOfMemoryError; the driver (loading a kernel, a graph) only says so in its message.
        """
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise error
        self._settle()
        self._levels.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if pairs == 1 and self.group_pairs(height, width) == 1:
            raise ReciprocalError(
                f"TV-L1 of one pair at {width}x{height} does not fit the memory of {self.device}: {error}"
            ) from error
        self._most_pairs = max(1, self.group_pairs(height, width) // 2)
        log.warning(
            "out of memory on %s at %dx%d: continuing with %d pairs at a time",
            self.device,
            width,
            height,
            self._most_pairs,
        )

    def _settle(self) -> None:
        """Wait for the device: a recorded graph still writes to its buffers, whatever the allocator thinks of them."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _to_host(self, solved: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """A host tensor that will hold ``solved``, and the event after which it does."""
        if self.device.type != "cuda":
            return solved, None
        host = torch.empty(solved.shape, dtype=solved.dtype, pin_memory=True)
        host.copy_(solved, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return host, event


def chunk_of(picture_px: int, memory_bytes: int, bytes_per_px: int) -> int:
    """Pairs of a chunk, 1 to ``MOST_CHUNK_PAIRS``."""
    most_px = min(CHUNK_PX, MEMORY_SHARE * memory_bytes / bytes_per_px)
    return min(MOST_CHUNK_PAIRS, max(1, int(most_px / picture_px)))


def _are_neighbours(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether the second frame of every pair is, in memory, the first of the next: two views of one clip."""
    return (
        first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and first.stride() == second.stride()
        and second.storage_offset() - first.storage_offset() == first.stride(0)
    )


def _collect(result: np.ndarray, waiting: tuple[slice, torch.Tensor, torch.cuda.Event | None] | None) -> None:
    if waiting is None:
        return
    part, host, event = waiting
    if event is not None:
        event.synchronize()
    result[part] = host.numpy()
