"""Batch normalisation and ReLU in one: values, gradients and running statistics against torch's in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.models.norm_relu import norm_relu, takes

KERNEL_CHECK = """
import copy
import torch
from torch import nn
from pipeline.models import triton_norm
from pipeline.models.norm_relu import fused_norm_relu, takes
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
# The interpreter computes with numpy, which lacks bfloat16.
low = torch.bfloat16 if device == "cuda" else torch.float16
triton_norm._MOST_BLOCKS = 3  # several tiles a block, in small maps too
for dtype, tolerance in ((torch.float32, 2e-5), (low, 2e-2)):
    for frames, channels, side, offset in ((1, 1, 2, 0.0), (2, 5, 3, 30.0), (3, 70, 7, -4.0), (1, 16, 12, 200.0)):
        if dtype is low and abs(offset) > 10:
            continue
        norm = nn.BatchNorm2d(channels, eps=1e-3).to(device)
        with torch.no_grad():
            norm.weight.uniform_(-1, 2), norm.bias.uniform_(-1, 1)
        true = copy.deepcopy(norm).double().cpu()
        x = (torch.randn(frames, channels, side, side) + offset).to(device, dtype)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        wide = x.detach().cpu().double().requires_grad_()
        assert takes(norm, x)
        for _ in range(2):  # running statistics twice
            y, z = fused_norm_relu(triton_norm, norm, x), torch.relu(true(wide))
        assert y.dtype == dtype and y.stride() == x.stride()
        grad = torch.randn(y.shape).to(device, dtype)
        found = torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)
        wanted = torch.autograd.grad(z, (wide, true.weight, true.bias), grad.cpu().double())
        for a, b in zip((y, *found, norm.running_mean, norm.running_var),
                        (z, *wanted, true.running_mean, true.running_var)):
            a = a.cpu().double()
            # Values within rounding of the cut may fall on its other side: few, and told by the norm.
            assert (a - b).norm() <= tolerance * max(1.0, b.norm().item()), (dtype, channels, (a - b).norm(), b.norm())
        assert norm.num_batches_tracked == 2
norm, x = nn.BatchNorm2d(3).to(device), torch.zeros(2, 3, 4, 4, device=device).to(memory_format=torch.channels_last)
x[0, 1, 0, 0] = float("nan")
y = fused_norm_relu(triton_norm, norm, x)
assert y[:, 1].isnan().all() and not y[:, [0, 2]].isnan().any()
print("checked on", device)
"""


def run_kernel_check(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", KERNEL_CHECK], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_interpreted() -> None:
    """In a process that has TRITON_INTERPRET set before anything imports Triton."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    assert "checked on cpu" in run_kernel_check(os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
def test_kernels_on_a_gpu() -> None:
    assert "checked on cuda" in run_kernel_check({k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})


def test_other_layers_and_maps_are_left_to_torch() -> None:
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    assert takes(nn.BatchNorm2d(4), x)
    for norm in (
        nn.BatchNorm2d(4).eval(),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
    ):
        assert not takes(norm, x)
    for other in (x.contiguous(), x.double(), torch.randn(1, 4, 1, 1)):
        assert not takes(nn.BatchNorm2d(4), other)
    norm = nn.BatchNorm2d(4)
    assert torch.equal(norm_relu(norm, x), torch.relu(nn.BatchNorm2d(4)(x)))
    assert norm.num_batches_tracked == 1
