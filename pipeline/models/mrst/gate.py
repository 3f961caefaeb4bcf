"""Fused operators of the MRST unit: the means after its one ReLU on maps, and the gated sum.

Both process the maps in blocks that fit a core's cache, so no temporary map is written. For its backward pass
``reinforced_means`` keeps one byte per element (the sign) instead of the map itself. On a GPU a block is a whole clip,
the forward pass of ``reinforced_means`` is a Triton kernel (``triton_gate``) if Triton is installed, as are both of the
gated sum (``triton_sum``), and its own backward pass takes all clips at once (``BACKWARD``). The operators are opaque
to ``torch.compile`` (no graph breaks) and known to torch's FLOP counter.

Maps are (B, P, C): clip, position (frame, row, column), channel; channels-last memory has this order already.
``tests/unit/pipeline/models/mrst/test_gate.py`` holds values and gradients against ``tests/oracles/mrst_equations.py``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

BACKWARD: Literal["auto", "loop", "batched", "joined"] = "auto"
"""Products of the backward passes: a loop over blocks, one batched product over clips, or, for the gradients of the
matrices, one product over the positions of all clips. ``auto``: a loop on the CPU, batched elsewhere, where every
launch costs as much as a small product.
"""
_BLOCK_ELEMENTS = 1 << 16
"""Elements of one block on the CPU: 256 KiB in float32, so that the blocks of two maps and of one result fit a core's
cache together.
"""


def wide_dtype(x: Tensor) -> torch.dtype:
    """Dtype of sums and gates: float32, or that of ``x`` if it is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def _backward_form(x: Tensor) -> str:
    if BACKWARD == "auto":
        return "loop" if x.device.type == "cpu" else "batched"
    return BACKWARD


def _blocks(x_BPC: Tensor) -> Iterator[tuple[int, slice]]:
    """(clip, positions) of each block: cache-sized on the CPU, whole clips elsewhere."""
    _, positions, channels = x_BPC.shape
    step = max(64, _BLOCK_ELEMENTS // channels) if x_BPC.device.type == "cpu" else positions
    for clip in range(x_BPC.shape[0]):
        for start in range(0, positions, step):
            yield clip, slice(start, min(start + step, positions))


_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _triton(module: str, name: str, x: Tensor) -> Callable[..., Any] | None:
    """A function of a module of Triton kernels, where these run on maps like ``x``."""
    return _kernels(module, name) if x.is_cuda and x.dtype in _TRITON_DTYPES else None


@functools.cache
def _kernels(module: str, name: str) -> Callable[..., Any] | None:
    if importlib.util.find_spec("triton") is None:
        return None
    return getattr(importlib.import_module(f"pipeline.models.mrst.{module}"), name)


@torch.library.custom_op("reciprocal::reinforced_means", mutates_args=())
def reinforced_means(
    a_BPC: Tensor, b_BPC: Tensor, aa: Tensor, ba: Tensor, keep_mask: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Means over positions of ReLU(Waa a + Wba b), of a, and of b, in one pass over the maps.

    Args:
        a_BPC, b_BPC: contiguous maps (B, P, C).
        aa, ba: (C, C) in the maps' dtype.
        keep_mask: whether a backward pass follows.

    Returns:
        three means (B, C) in float32 or wider; and where Waa a + Wba b is positive, (B, P, C) bool, empty without
        ``keep_mask``.

    Cost: 2 C^2 multiply-adds per position forward, twice that backward.
    """
    if (means := _triton("triton_gate", "reinforced_means", a_BPC)) is not None:
        return means(a_BPC, b_BPC, aa, ba, keep_mask)
    batch, positions, channels = a_BPC.shape
    wide = wide_dtype(a_BPC)
    reinforced, mean_a, mean_b = (a_BPC.new_zeros((batch, channels), dtype=wide) for _ in range(3))
    mask = a_BPC.new_empty(a_BPC.shape if keep_mask else (0,), dtype=torch.bool)
    for clip, rows in _blocks(a_BPC):
        a, b = a_BPC[clip, rows], b_BPC[clip, rows]
        mixed = torch.mm(a, aa.t()).addmm_(b, ba.t())
        if keep_mask:
            torch.gt(mixed, 0, out=mask[clip, rows])
        reinforced[clip] += mixed.clamp_(min=0).sum(0, dtype=wide)
        mean_a[clip] += a.sum(0, dtype=wide)
        mean_b[clip] += b.sum(0, dtype=wide)
    return reinforced.div_(positions), mean_a.div_(positions), mean_b.div_(positions), mask


@reinforced_means.register_fake
def _(a_BPC: Tensor, b_BPC: Tensor, aa: Tensor, ba: Tensor, keep_mask: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del b_BPC, aa, ba
    batch, _, channels = a_BPC.shape
    reinforced, mean_a, mean_b = (a_BPC.new_empty((batch, channels), dtype=wide_dtype(a_BPC)) for _ in range(3))
    return reinforced, mean_a, mean_b, a_BPC.new_empty(a_BPC.shape if keep_mask else (0,), dtype=torch.bool)


@torch.library.custom_op("reciprocal::reinforced_means_backward", mutates_args=())
def reinforced_means_backward(
    a_BPC: Tensor,
    b_BPC: Tensor,
    aa: Tensor,
    ba: Tensor,
    mask_BPC: Tensor,
    grad_reinforced: Tensor,
    grad_a: Tensor,
    grad_b: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, b, Waa and Wba, given those of the three means.

    With g the gradient of the first mean divided by P, the gradient of Waa a + Wba b is mask * g. Instead, g scales the
    rows of the small matrices, so that the matrix products can take the mask itself, as zeros and ones.
    """
    _, positions, channels = a_BPC.shape
    wide = wide_dtype(a_BPC)
    out_a, out_b = torch.empty_like(a_BPC), torch.empty_like(b_BPC)
    reinforced, rest_a, rest_b = (g.to(wide) / positions for g in (grad_reinforced, grad_a, grad_b))
    low_a, low_b = rest_a.to(a_BPC.dtype), rest_b.to(a_BPC.dtype)
    if (form := _backward_form(a_BPC)) != "loop":
        signs = mask_BPC.to(a_BPC.dtype)
        if form == "joined":
            signs.mul_(reinforced.to(a_BPC.dtype)[:, None])
            to_a, to_b = (w.expand(len(a_BPC), -1, -1) for w in (aa, ba))
            low_signs = signs.flatten(0, 1).t()
            out_aa, out_ba = (torch.mm(low_signs, x.flatten(0, 1)) for x in (a_BPC, b_BPC))
        else:
            to_a, to_b = ((reinforced[:, :, None] * w).to(a_BPC.dtype) for w in (aa, ba))
            out_aa, out_ba = (
                torch.bmm(signs.mT, x).to(wide).mul_(reinforced[:, :, None]).sum(0) for x in (a_BPC, b_BPC)
            )
        torch.baddbmm(low_a[:, None], signs, to_a, out=out_a)
        torch.baddbmm(low_b[:, None], signs, to_b, out=out_b)
        return out_a, out_b, out_aa.to(aa.dtype), out_ba.to(ba.dtype)
    out_aa, out_ba = (aa.new_zeros((channels, channels), dtype=wide) for _ in range(2))
    previous, to_a, to_b = -1, aa, ba
    for clip, rows in _blocks(a_BPC):
        if clip != previous:
            to_a, to_b = ((reinforced[clip, :, None] * w).to(a_BPC.dtype) for w in (aa, ba))
            previous = clip
        signs = mask_BPC[clip, rows].to(a_BPC.dtype)
        torch.addmm(low_a[clip], signs, to_a, out=out_a[clip, rows])
        torch.addmm(low_b[clip], signs, to_b, out=out_b[clip, rows])
        out_aa.addcmul_(reinforced[clip, :, None], torch.mm(signs.t(), a_BPC[clip, rows]))
        out_ba.addcmul_(reinforced[clip, :, None], torch.mm(signs.t(), b_BPC[clip, rows]))
    return out_a, out_b, out_aa.to(aa.dtype), out_ba.to(ba.dtype)


@reinforced_means_backward.register_fake
def _(
    a_BPC: Tensor,
    b_BPC: Tensor,
    aa: Tensor,
    ba: Tensor,
    mask_BPC: Tensor,
    grad_reinforced: Tensor,
    grad_a: Tensor,
    grad_b: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del mask_BPC, grad_reinforced, grad_a, grad_b
    return torch.empty_like(a_BPC), torch.empty_like(b_BPC), torch.empty_like(aa), torch.empty_like(ba)


def _keep_for_means(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a_BPC, b_BPC, aa, ba, _ = inputs
    ctx.save_for_backward(a_BPC, b_BPC, aa, ba, output[3])
    ctx.mark_non_differentiable(output[3])


def _means_backward(
    ctx: Any, grad_reinforced: Tensor, grad_a: Tensor, grad_b: Tensor, _mask: Tensor | None
) -> tuple[Tensor | None, ...]:
    return *reinforced_means_backward(*ctx.saved_tensors, grad_reinforced, grad_a, grad_b), None


reinforced_means.register_autograd(_means_backward, setup_context=_keep_for_means)


@torch.library.custom_op("reciprocal::gated_sum", mutates_args=())
def gated_sum(s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor) -> Tensor:
    """Equations 6 and 7: gS . S + gT . T, (B, P, C), of contiguous maps; gates (B, C) in float32 or wider."""
    if (fused := _triton("triton_sum", "gated_sum", s_BPC)) is not None:
        return fused(s_BPC.contiguous(), t_BPC.contiguous(), gate_s, gate_t)
    low_s, low_t = (g.to(s_BPC.dtype)[:, None] for g in (gate_s, gate_t))
    return torch.mul(s_BPC, low_s).addcmul_(t_BPC, low_t)


@gated_sum.register_fake
def _(s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor) -> Tensor:
    del t_BPC, gate_s, gate_t
    return torch.empty_like(s_BPC)


@torch.library.custom_op("reciprocal::gated_sum_backward", mutates_args=())
def gated_sum_backward(
    grad_BPC: Tensor, s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of S, T, gS, gT."""
    if (fused := _triton("triton_sum", "gated_sum_backward", s_BPC)) is not None:
        return fused(grad_BPC, s_BPC.contiguous(), t_BPC.contiguous(), gate_s, gate_t)
    wide = wide_dtype(s_BPC)
    out_s, out_t = torch.empty_like(s_BPC), torch.empty_like(t_BPC)
    out_gs, out_gt = (torch.zeros_like(g, dtype=wide) for g in (gate_s, gate_t))
    low_s, low_t = gate_s.to(s_BPC.dtype), gate_t.to(s_BPC.dtype)
    if _backward_form(s_BPC) != "loop":
        for x, gate, out, out_gate in ((s_BPC, low_s, out_s, out_gs), (t_BPC, low_t, out_t, out_gt)):
            torch.sum(torch.mul(grad_BPC, x, out=out), 1, dtype=wide, out=out_gate)
            torch.mul(grad_BPC, gate[:, None], out=out)
        return out_s, out_t, out_gs.to(gate_s.dtype), out_gt.to(gate_t.dtype)
    for clip, rows in _blocks(s_BPC):
        grad = grad_BPC[clip, rows]
        # The product that a gate's gradient needs is written to where the result will go: no temporary map.
        for x, gate, out, out_gate in ((s_BPC, low_s, out_s, out_gs), (t_BPC, low_t, out_t, out_gt)):
            place = out[clip, rows]
            out_gate[clip] += torch.mul(grad, x[clip, rows], out=place).sum(0, dtype=wide)
            torch.mul(grad, gate[clip], out=place)
    return out_s, out_t, out_gs.to(gate_s.dtype), out_gt.to(gate_t.dtype)


@gated_sum_backward.register_fake
def _(
    grad_BPC: Tensor, s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del grad_BPC
    return torch.empty_like(s_BPC), torch.empty_like(t_BPC), torch.empty_like(gate_s), torch.empty_like(gate_t)


def _keep_for_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return gated_sum_backward(grad.contiguous(), *ctx.saved_tensors)


gated_sum.register_autograd(_sum_backward, setup_context=_keep_for_sum)


@register_flop_formula(torch.ops.reciprocal.reinforced_means)
def _flops(a_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, positions, channels = a_shape
    return 2 * 2 * batch * positions * channels**2


@register_flop_formula(torch.ops.reciprocal.reinforced_means_backward)
def _backward_flops(a_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * _flops(a_shape)
