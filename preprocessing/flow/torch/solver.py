"""TV-L1 of a batch of pairs in plain torch: the oracle of the Triton kernels, and the slow way where there is no GPU.

Every step is elementwise, or a sum of fixed order, so a pair's flow does not depend on its batch or on the number of
threads. Equations: Zach, Pock, Bischof 2007, as discretised by OpenCV's DualTVL1 (cubic warping with taps outside the
picture read as zero, 5x5 median before every outer iteration). Coordinates of the warp are exact, as in OpenCV 5;
OpenCV 4 rounded them to 1/32 px.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from preprocessing.flow.params import TVL1Params
from preprocessing.flow.torch.geometry import CUBIC_A, EPS_GRADIENT, bilinear_taps, level_sizes, median_of_25

State = dict[str, torch.Tensor]


def solve_pairs(first_NHW: torch.Tensor, second_NHW: torch.Tensor, params: TVL1Params) -> torch.Tensor:
    """Flow of every pair.

    Args:
        first_NHW, second_NHW: (N, H, W) float32, brightness 0..255.

    Returns:
        (N, 2, H, W) float32, u then v, in pixels.
    """
    _, height, width = first_NHW.shape
    sizes = level_sizes(height, width, params.scales, params.scale_step)
    firsts, seconds = [first_NHW], [second_NHW]
    for size in sizes[1:]:
        firsts.append(resize(firsts[-1], size, 1 / params.scale_step))
        seconds.append(resize(seconds[-1], size, 1 / params.scale_step))
    flow = first_NHW.new_zeros(len(first_NHW), 2, *sizes[-1])
    for level in reversed(range(len(sizes))):
        if flow.shape[2:] != sizes[level]:
            flow = resize(flow, sizes[level]) * (1 / params.scale_step)
        flow = solve_level(firsts[level], seconds[level], flow, params)
    return flow


def solve_level(first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor, params: TVL1Params) -> torch.Tensor:
    """Flow (N, 2, H, W) on one pyramid level from frames (N, H, W), starting at ``flow``; a pair whose warps no longer
    move it leaves the batch.
    """
    gradient = central_gradient(second)
    dual = flow.new_zeros(len(flow), 4, *flow.shape[2:])
    flow_out, index = flow.clone(), torch.arange(len(flow), device=flow.device)
    for _ in range(params.warps):
        start = flow
        flow, dual = solve_warp(linearise(first, second, gradient, start), start, dual, params)
        flow_out[index] = flow
        if not params.settled_px:
            continue
        going = fixed_order_sum(torch.square(flow - start)) > settled_limit(params, *flow.shape[2:])
        if not bool(going.any()):
            break
        first, second, gradient, flow, dual, index = (
            each[going] for each in (first, second, gradient, flow, dual, index)
        )
    return flow_out


def solve_warp(
    data: torch.Tensor, flow: torch.Tensor, dual: torch.Tensor, params: TVL1Params
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outer and inner iterations of one warp; a pair that has converged leaves the batch, and keeps its state to
    the bit.
    """
    flow_out, dual_out = flow.clone(), dual.clone()
    index = torch.arange(len(flow), device=flow.device)
    limit = stop_limit(params, flow.shape[2], flow.shape[3])
    for _ in range(params.outer_iterations):
        if params.median:
            flow = median_5x5(flow)
        for _ in range(params.inner_iterations):
            flow, dual, change = iterate(data, flow, dual, params)
            going = fixed_order_sum(change) > limit
            if not bool(going.all()):
                flow_out[index[~going]], dual_out[index[~going]] = flow[~going], dual[~going]
                data, flow, dual, index = data[going], flow[going], dual[going], index[going]
            if len(index) == 0:
                return flow_out, dual_out
    flow_out[index], dual_out[index] = flow, dual
    return flow_out, dual_out


def stop_limit(params: TVL1Params, height: int, width: int) -> float:
    """A warp of a pair ends when its summed squared change of flow is at most this."""
    return float(params.epsilon * params.epsilon * height * width)


def settled_limit(params: TVL1Params, height: int, width: int) -> float:
    """A level of a pair ends when a warp has moved its flow by at most this summed squared distance."""
    return float(params.settled_px * params.settled_px * height * width)


def iterate(
    data: torch.Tensor, flow: torch.Tensor, dual: torch.Tensor, params: TVL1Params
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One primal-dual step.

    Args:
        data: (N, 4, H, W) from ``linearise``.
        flow: (N, 2, H, W). dual: (N, 4, H, W) p11, p12, p21, p22.

    Returns:
        New flow, new dual, and (N, H, W) squared change of the flow.
    """
    gx, gy, rho_c, inverse = data.unbind(1)
    u1, u2 = flow.unbind(1)
    bound = params.lambda_ * params.theta
    rho = rho_c + (gx * u1 + gy * u2)
    step = (rho * inverse).clamp(-bound, bound)  # the thresholding step: lambda theta where rho is large, else rho / g
    slope = params.tau / params.theta
    new_flow, new_dual = [], []
    for u, g, px, py in ((u1, gx, dual[:, 0], dual[:, 1]), (u2, gy, dual[:, 2], dual[:, 3])):
        divergence = (px - functional.pad(px[:, :, :-1], (1, 0))) + (py - functional.pad(py[:, :-1], (0, 0, 1, 0)))
        new = (u - step * g) + params.theta * divergence
        ux = functional.pad(new[:, :, 1:] - new[:, :, :-1], (0, 1))
        uy = functional.pad(new[:, 1:] - new[:, :-1], (0, 0, 0, 1))
        scale = 1 + slope * torch.sqrt(ux * ux + uy * uy)
        new_flow.append(new)
        new_dual += [(px + slope * ux) / scale, (py + slope * uy) / scale]
    d1, d2 = new_flow[0] - u1, new_flow[1] - u2
    return torch.stack(new_flow, 1), torch.stack(new_dual, 1), d1 * d1 + d2 * d2


def fixed_order_sum(values: torch.Tensor) -> torch.Tensor:
    """(N, ...) to (N,): adds halves, so the order depends only on the shape of one row, not on N or the threads."""
    rows = values.flatten(1)
    while rows.shape[1] > 1:
        if rows.shape[1] % 2:
            rows = functional.pad(rows, (0, 1))
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows[:, 0]


def linearise(first: torch.Tensor, second: torch.Tensor, gradient: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Data term around ``flow``.

    Returns:
        (N, 4, H, W): warped gradient x and y, constant part of the residual, and 1 / max(squared gradient, 1.19e-7).
    """
    warped, gx, gy = warp(torch.stack((second, gradient[:, 0], gradient[:, 1]), 1), flow).unbind(1)
    rho_c = ((warped - gx * flow[:, 0]) - gy * flow[:, 1]) - first
    return torch.stack((gx, gy, rho_c, 1 / (gx * gx + gy * gy).clamp_min(EPS_GRADIENT)), 1)


def warp(pictures: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) sampled at x + flow: cubic with a = -0.75, taps outside the picture are zero."""
    count, channels, height, width = pictures.shape
    y, x = torch.arange(height, device=flow.device)[:, None], torch.arange(width, device=flow.device)
    # beyond these bounds no tap is inside
    at_x, at_y = (x + flow[:, 0]).clamp(-8, width + 8), (y + flow[:, 1]).clamp(-8, height + 8)
    wx, wy = cubic_weights(at_x - at_x.floor()), cubic_weights(at_y - at_y.floor())
    column, row = at_x.floor().long() - 1, at_y.floor().long() - 1
    planes = pictures.flatten(2)
    out = torch.zeros_like(pictures)
    for j in range(4):
        line = torch.zeros_like(pictures)
        for i in range(4):
            inside = (column + i >= 0) & (column + i < width) & (row + j >= 0) & (row + j < height)
            at = torch.where(inside, (row + j) * width + column + i, 0).flatten(1)[:, None].expand(count, channels, -1)
            tap = planes.gather(2, at).view_as(pictures) * inside[:, None]
            line = line + tap * wx[i][:, None]
        out = out + line * wy[j][:, None]
    return out


def cubic_weights(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of the taps at -1, 0, 1, 2 for a position 0 <= t < 1 (Keys 1981, equation 4, with a = -0.75)."""
    far, near, a = 1 + t, 1 - t, CUBIC_A
    w0 = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    w1 = ((a + 2) * t - (a + 3)) * t * t + 1
    w2 = ((a + 2) * near - (a + 3)) * near * near + 1
    return w0, w1, w2, 1 - w0 - w1 - w2


def median_5x5(flow: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W), border replicated."""
    height, width = flow.shape[2:]
    padded = functional.pad(flow, (2, 2, 2, 2), mode="replicate")
    return median_of_25([padded[:, :, j : j + height, i : i + width] for j in range(5) for i in range(5)])


def central_gradient(frames: torch.Tensor) -> torch.Tensor:
    """(N, H, W) to (N, 2, H, W): half the difference of the neighbours in x and y, border replicated."""
    padded = functional.pad(frames[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return torch.stack(
        (0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]), 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])), 1
    )


def resize(pictures: torch.Tensor, size: tuple[int, int], ratio: float | None = None) -> torch.Tensor:
    """(..., H, W) to (..., *size), bilinear without antialiasing.

    Args:
        ratio: source pixels per target pixel; by default what maps border to border.
    """
    height, width = pictures.shape[-2:]
    left, right, wx = bilinear_taps(width, size[1], ratio or width / size[1], pictures.device)
    top, bottom, wy = bilinear_taps(height, size[0], ratio or height / size[0], pictures.device)
    rows = pictures[..., left] * (1 - wx) + pictures[..., right] * wx
    return rows[..., top, :] * (1 - wy)[:, None] + rows[..., bottom, :] * wy[:, None]
