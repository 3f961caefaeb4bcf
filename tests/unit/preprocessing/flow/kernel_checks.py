"""Checks of the Triton kernels, one by one and together. Not collected by name: test_tvl1_torch.py runs this file under
Triton's interpreter, and test_tvl1_gpu.py on CUDA, each in a process of its own, because Triton decides at import which
it is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import triton

from preprocessing.flow.params import TVL1Params
from preprocessing.flow.torch import solver as torch_solver
from preprocessing.flow.torch.engine import TorchTVL1
from preprocessing.flow.torch.level import LevelSolver, resize_pictures

torch.set_num_threads(1)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def texture(height: int, width: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("test_flow", Path(__file__).with_name("test_flow.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.texture(height, width, dx, dy)


def level(height: int, width: int, pairs: int = 2, **params) -> LevelSolver:
    """A level of 2 x 2 or more tiles where the picture is larger than 16 x 64; its pairs are marked as in use."""
    solver = LevelSolver(height, width, pairs, DEVICE, TVL1Params(**params), graphs=False)
    solver._used.fill_(1)
    return solver


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)).to(DEVICE)


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)).to(DEVICE)


def planes(interleaved: torch.Tensor) -> np.ndarray:
    """(N, H, W, C) to (N, C, H, W)."""
    return interleaved.permute(0, 3, 1, 2).cpu().numpy()


def test_median_is_opencv_s():
    solver = level(21, 70, 3, outer_iterations=1, inner_iterations=0)
    solver._flow[0].copy_(noise(3, 21, 70, 2))
    # still running; just stopped, in the last iteration before this median; stopped earlier
    solver._sums[0].copy_(torch.tensor([float("inf"), 0.0, -1.0])[:, None].expand(3, solver._tiles))
    solver._outer_iteration()
    before, after = planes(solver._flow[0]), planes(solver._filtered)
    for component in range(2):
        assert np.array_equal(after[0, component], cv2.medianBlur(before[0, component], 5))
    assert np.array_equal(after[1], before[1]), "a pair that has stopped is filtered no more"
    assert not after[2].any(), "a pair that had stopped was written"


def test_linearisation_is_opencv_s_remap():
    height, width = 19, 67
    solver = level(height, width)
    first, second, flow = (
        frames(2, height, width),
        frames(2, height, width, seed=1),
        noise(2, height, width, 2, scale=6.0),
    )
    if int(cv2.__version__.split(".")[0]) < 5:
        flow = flow.mul(32).round().div(32)  # OpenCV 4 rounds coordinates to 1/32 px
    flow[0, 0, 0] = torch.tensor([-1e7, 1e7])
    gradient = torch.stack(
        [
            torch.stack(
                [
                    torch.from_numpy(cv2.filter2D(f.cpu().numpy(), -1, k, borderType=cv2.BORDER_REPLICATE))
                    for k in central()
                ],
                -1,
            )
            for f in second
        ]
    )
    solver.params = TVL1Params(warps=1, outer_iterations=0)
    solver.solve(first, second, flow.clone())
    assert torch.equal(solver._gradient.cpu(), gradient)
    solver.params = TVL1Params(median=False, inner_iterations=0)
    solver._begin()
    data = planes(solver._data)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for n in range(2):
        u, v = planes(flow)[n]
        sources = (second[n].cpu().numpy(), *gradient[n].permute(2, 0, 1).numpy())
        warped, gx, gy = (cv2.remap(np.ascontiguousarray(s), x + u, y + v, cv2.INTER_CUBIC) for s in sources)
        np.testing.assert_allclose(data[n, 0], gx, atol=2e-3)
        np.testing.assert_allclose(data[n, 1], gy, atol=2e-3)
        # rho_c loses digits to |gradient . flow|, which is what both subtract; with our gradient the rest must agree
        rest = data[n, 2] + data[n, 0] * u + data[n, 1] * v + first[n].cpu().numpy()
        calm = np.abs(u) < 100
        np.testing.assert_allclose(rest[calm], warped[calm], atol=4e-3)
        np.testing.assert_allclose(
            data[n, 3], 1 / np.maximum(data[n, 0] ** 2 + data[n, 1] ** 2, 1.1920929e-7), rtol=1e-6
        )
    assert np.isinf(solver._sums[0].cpu().numpy()).all()


def central() -> tuple[np.ndarray, np.ndarray]:
    row = np.array([[-0.5, 0.0, 0.5]], np.float32)
    return row, row.T


def equations(flow: np.ndarray, dual: np.ndarray, data: np.ndarray, p: TVL1Params) -> tuple[np.ndarray, np.ndarray]:
    """Zach, Pock, Bischof 2007 in float64, pixel by pixel with the three cases of the thresholding step.

    (2, H, W) flow, (4, H, W) dual p11 p12 p21 p22, (4, H, W) data.
    """
    flow, dual, data = flow.astype(np.float64), dual.astype(np.float64), data.astype(np.float64)
    _, height, width = flow.shape
    new, out = np.zeros_like(flow), np.zeros_like(dual)
    for y in range(height):
        for x in range(width):
            gradient, g = data[:2, y, x], data[0, y, x] ** 2 + data[1, y, x] ** 2
            rho = data[2, y, x] + gradient @ flow[:, y, x]
            if rho < -p.lambda_ * p.theta * g:
                v = flow[:, y, x] + p.lambda_ * p.theta * gradient
            elif rho > p.lambda_ * p.theta * g:
                v = flow[:, y, x] - p.lambda_ * p.theta * gradient
            else:
                v = flow[:, y, x] - (rho / g * gradient if g > 1.2e-7 else 0)
            for c in range(2):
                p_x, p_y = dual[2 * c], dual[2 * c + 1]
                divergence = p_x[y, x] - (p_x[y, x - 1] if x else 0) + p_y[y, x] - (p_y[y - 1, x] if y else 0)
                new[c, y, x] = v[c] + p.theta * divergence
    for c in range(2):
        u_x, u_y = np.zeros((height, width)), np.zeros((height, width))
        u_x[:, :-1], u_y[:-1] = np.diff(new[c], axis=1), np.diff(new[c], axis=0)
        scale = 1 + p.tau / p.theta * np.hypot(u_x, u_y)
        out[2 * c], out[2 * c + 1] = (
            (dual[2 * c] + p.tau / p.theta * u_x) / scale,
            (dual[2 * c + 1] + p.tau / p.theta * u_y) / scale,
        )
    return new, out


def test_iteration_is_the_equations_and_stops_pair_by_pair():
    height, width, order = 18, 66, [0, 2, 1, 3]  # the kernels keep p11, p21, p12, p22
    solver = level(height, width, 4, median=False, inner_iterations=1)
    flow, dual = noise(4, height, width, 2), noise(4, height, width, 4, scale=0.4, seed=1)
    data = noise(4, height, width, 4, scale=10.0, seed=2)
    data[:, 3:5, 5:9, :2] = 0.0  # flat parts of the picture
    data[..., 3] = 1 / (data[..., 0] ** 2 + data[..., 1] ** 2).clamp_min(1.1920929e-7)
    for buffer, value in ((solver._flow[0], flow), (solver._dual[0], dual), (solver._data, data)):
        buffer.copy_(value)
    solver._flow[1].fill_(7.0), solver._dual[1].fill_(7.0)
    # still running; just stopped; stopped earlier; still running
    solver._sums[0].copy_(torch.tensor([float("inf"), 0.0, -1.0, 1e6])[:, None].expand(4, solver._tiles))
    kept = solver._flow[0].clone(), solver._dual[0].clone()
    solver._outer_iteration()  # the odd number of iterations is copied back into the first buffers
    for n in (0, 3):
        new_flow, new_dual = equations(planes(flow)[n], planes(dual)[n][order], planes(data)[n], solver.params)
        np.testing.assert_allclose(planes(solver._flow[0])[n], new_flow, atol=2e-5)
        np.testing.assert_allclose(planes(solver._dual[0])[n][order], new_dual, atol=2e-6)
        change = ((new_flow - planes(flow)[n]) ** 2).sum()
        assert change > solver._limit, "the example is no good: it has converged"
        assert np.isinf(solver._sums[0][n].cpu().numpy()).all()
    assert torch.equal(solver._flow[1][1], kept[0][1])
    assert torch.equal(solver._dual[1][1], kept[1][1])
    assert (solver._flow[1][2] == 7.0).all(), "a pair that had stopped was written"
    assert solver._going_host.tolist() == [1, 0, 0, 1]
    assert (solver._sums[1][1:3] == -1.0).all(), "a pair that has stopped must cost nothing from here on"


def test_pairs_that_a_warp_hardly_moved_take_no_further_one():
    solver = level(18, 70, 5, median=False, inner_iterations=2, epsilon=0.0, settled_px=0.1)
    solver._first.copy_(frames(5, 18, 70))
    solver._gradient.copy_(noise(5, 18, 70, 2))
    solver._used[4] = 0  # had settled before, or an empty place
    start, moves = noise(5, 18, 70, 2), noise(5, 18, 70, 2, seed=1)
    moves /= torch.square(moves).sum(3).mean((1, 2)).sqrt()[:, None, None, None]  # 1 px, root mean square
    solver._start.copy_(start)
    solver._flow[0].copy_(
        start + moves * torch.tensor([0.0, 0.099, 0.101, 3.0, 3.0], device=DEVICE)[:, None, None, None]
    )
    before = solver._flow[0].clone()
    solver._drop_settled()
    assert solver._used.tolist() == [0, 0, 1, 1, 0]
    assert solver._any_going()
    assert torch.equal(solver._flow[0], before)
    solver._begin()
    assert torch.equal(solver._flow[0][[0, 1, 4]], before[[0, 1, 4]]), "a pair that had settled was written"
    assert not torch.equal(solver._flow[0][2:4], before[2:4])


def test_unused_slots_of_a_chunk_are_not_touched():
    solver = level(16, 20, 3, median=False, inner_iterations=2, warps=1, outer_iterations=1)
    solver._data.fill_(1e9)
    solver.solve(frames(2, 16, 20), frames(2, 16, 20, seed=1), torch.zeros(2, 16, 20, 2, device=DEVICE))
    assert (solver._data[2] == 1e9).all()
    assert not (solver._data[1] == 1e9).any()
    assert solver._going_host.tolist()[2] == 0


def test_sums_are_of_squared_changes():
    solver = level(18, 66, 1, median=False, inner_iterations=2, epsilon=0.0)
    solver._flow[0].copy_(noise(1, 18, 66, 2))
    solver._data.copy_(noise(1, 18, 66, 4))
    solver._sums[0].fill_(float("inf"))
    solver._outer_iteration()
    # the verdict replaced the sums of the second iteration; those of the first are still there
    before = planes(noise(1, 18, 66, 2))[0]
    after = planes(solver._flow[1])[0]
    assert solver._sums[1].sum().item() == pytest.approx(((after - before) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(29, 37), (40, 66)])
def test_resize_is_opencv_s(height, width):
    picture = frames(2, height, width)
    small = cv2.resize(picture[1].cpu().numpy(), None, fx=0.8, fy=0.8)
    np.testing.assert_allclose(resize_pictures(picture, small.shape, 1.25)[1].cpu(), small, atol=1e-4)
    flow = noise(2, *small.shape, 2)
    large = cv2.resize(flow[1].cpu().numpy(), (width, height))
    np.testing.assert_allclose(resize_pictures(flow, (height, width), gain=1.25)[1].cpu(), 1.25 * large, atol=1e-5)


@pytest.mark.parametrize(
    ("warps", "settled_px", "inner", "height", "width", "scales"), [(1, 0.0, 5, 20, 24, 2), (3, 0.1, 4, 16, 67, 1)]
)
def test_engine_agrees_with_plain_torch(warps, settled_px, inner, height, width, scales):
    params = TVL1Params(
        scales=scales,
        warps=warps,
        settled_px=settled_px,
        outer_iterations=2,
        inner_iterations=inner,
        epsilon=0.05,
    )
    clip = np.stack([texture(height, width, 0.2), texture(height, width), texture(height, width, 1.3, -0.6)])
    engine = TorchTVL1(params, device=DEVICE.type, chunk_pairs=2)
    assert engine.describe()["arithmetic"] == f"triton {triton.__version__}"
    flow = engine.flow(clip)
    first, second = torch.from_numpy(clip[:-1]), torch.from_numpy(clip[1:])
    expected = torch_solver.solve_pairs(first.float(), second.float(), params).numpy()
    assert np.abs(expected).mean() > 0.05
    np.testing.assert_allclose(flow, expected, atol=1e-3)
    apart = engine.flow_pairs(first.to(DEVICE), second.to(DEVICE))  # no frame is shared here
    assert np.array_equal(apart.cpu().numpy(), flow)


@pytest.mark.parametrize("settled_px", [0.0, 0.12])
def test_a_pair_has_the_same_bits_in_every_batch(settled_px):
    # the static pair stops at once, the slow one at the first test, the fast one at the end of an outer iteration
    params = TVL1Params(scales=1, warps=2, outer_iterations=2, inner_iterations=4, epsilon=0.11, settled_px=settled_px)
    clip = np.stack([texture(16, 40), texture(16, 40), texture(16, 40, 0.15), texture(16, 40, 1.3, -0.6)])
    flow = TorchTVL1(params, device=DEVICE.type, chunk_pairs=3).flow(clip)
    assert not flow[0].any(), "a static pair next to moving ones must not move"
    assert np.abs(flow[2]).mean() > 0.2
    assert np.array_equal(TorchTVL1(params, device=DEVICE.type, chunk_pairs=2).flow(clip[1:]), flow[1:])  # other places
    assert np.array_equal(TorchTVL1(params, device=DEVICE.type, chunk_pairs=1).flow(clip[1:]), flow[1:])  # alone
