"""Copies of a run's state in the host's memory, which a thread can write while training changes the original."""

from __future__ import annotations

from typing import Any

import torch


class HostCopies:
    """Copies of trees of tensors. Their memory is kept from one copy to the next, because fresh memory costs more time
    than the copy, and is page-locked where the original is on a GPU.
    """

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        self._on_gpu = False

    def copy(self, tree: Any, name: str, *, contiguous: bool = False) -> Any:
        """The same dictionaries, lists and numbers with copies of all tensors, valid until the next copy of ``name``.
        Those of a GPU are there after ``settle``.

        Args:
            contiguous: lay the copies out in the order of their dimensions; else as the originals.
        """
        if isinstance(tree, torch.Tensor):
            return self._tensor(tree.detach(), name, contiguous)
        if isinstance(tree, dict):
            return {key: self.copy(value, f"{name}.{key}", contiguous=contiguous) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(self.copy(v, f"{name}.{i}", contiguous=contiguous) for i, v in enumerate(tree))
        return tree

    def settle(self) -> None:
        """Wait for copies from a GPU."""
        if self._on_gpu:
            torch.cuda.synchronize()

    def _tensor(self, tensor: torch.Tensor, name: str, contiguous: bool) -> torch.Tensor:
        layout = torch.contiguous_format if contiguous else torch.preserve_format
        like = torch.empty_like(tensor, device="meta", memory_format=layout)
        kept = self._kept.get(name)
        if kept is None or (kept.dtype, kept.shape, kept.stride()) != (like.dtype, like.shape, like.stride()):
            kept = torch.empty_strided(
                like.shape, like.stride(), dtype=like.dtype, device="cpu", pin_memory=tensor.is_cuda
            )
            self._kept[name] = kept
        self._on_gpu = self._on_gpu or tensor.is_cuda
        return kept.copy_(tensor, non_blocking=True)
