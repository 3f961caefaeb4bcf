"""The fused gate: values and gradients against autograd's own, what it keeps in memory, torch.compile, and the
Triton kernel.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.model import MRSTConfig
from pipeline.models import build_model
from pipeline.models.mrst import gate as mrst_gate
from pipeline.models.mrst.gate import gated_sum, reinforced_means
from pipeline.models.mrst.unit import Tube
from tests.oracles import mrst_equations


def maps(*shape: int, number: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for _ in range(number)]


@pytest.mark.parametrize(("form", "elements"), [("loop", 1), ("loop", 1 << 16), ("batched", 1), ("joined", 1)])
@pytest.mark.parametrize(("batch", "positions", "channels"), [(1, 1, 1), (2, 150, 5), (3, 64, 8)])
def test_means_and_their_gradients(
    batch: int, positions: int, channels: int, form: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mrst_gate, "_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(mrst_gate, "BACKWARD", form)
    leaves = maps(batch, positions, channels) + maps(channels, channels)
    a, b, aa, ba = leaves
    ours = reinforced_means(a, b, aa, ba, True)
    *theirs, positive = mrst_equations.reinforced_means(a, b, aa, ba)
    assert torch.equal(ours[3], positive)
    directions = [torch.randn_like(x) for x in theirs]
    for x, y in zip(ours[:3], theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad([*x[:3]], leaves, directions) for x in (ours, theirs)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["loop", "batched"])
def test_gated_sum_and_its_gradients(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrst_gate, "BACKWARD", form)
    leaves = maps(2, 150, 5) + maps(2, 5)
    s, t, gate_s, gate_t = leaves
    ours, theirs = gated_sum(s, t, gate_s, gate_t), mrst_equations.gated_sum(s, t, gate_s, gate_t)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    direction = torch.randn_like(theirs)
    for x, y in zip(*(torch.autograd.grad(z, leaves, direction) for z in (ours, theirs)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_operators_are_registered_as_torch_wants_them() -> None:
    """torch's own checks: fake tensors agree with real ones, gradients are registered, under ahead-of-time tracing
    too.
    """
    torch.library.opcheck(reinforced_means, (*maps(2, 7, 3), *maps(3, 3), True))
    torch.library.opcheck(gated_sum, (*maps(2, 7, 3), *maps(2, 3)))


@pytest.mark.parametrize("unit", ["S", "T"])
def test_one_byte_per_element_is_kept_in_place_of_a_float_map(unit: str) -> None:
    """Maps beside S, T and the tube's inputs that autograd keeps: none in float32 with the fast path."""

    def kept(pooled: bool) -> list[tuple[torch.dtype, int]]:
        tube = Tube(8, unit, pooled)
        spatial, temporal = (
            torch.randn(8, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2)
        )
        seen: dict[int, tuple[torch.dtype, int]] = {}

        def pack(x: Tensor) -> Tensor:
            if x.numel() == spatial.numel():
                seen[x.untyped_storage().data_ptr()] = (x.dtype, x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            tube(spatial, temporal, 4)
        return sorted(seen.values(), key=str)

    count = 8 * 8 * 6 * 6
    fast, literal = kept(True), kept(False)
    assert fast.count((torch.bool, count)) == 1
    assert fast.count((torch.float32, count)) == 4  # both inputs, S and T
    assert literal.count((torch.float32, count)) >= 5


def test_without_a_backward_nothing_is_kept() -> None:
    with torch.no_grad():
        (a, b), (aa, ba) = maps(2, 7, 3), maps(3, 3)
        assert reinforced_means(a, b, aa, ba, False)[3].numel() == 0


def test_backward_flops_are_twice_the_forward_s() -> None:
    with FlopCounterMode(display=False) as counter:
        (a, b), (aa, ba) = maps(2, 7, 3), maps(3, 3)
        means = reinforced_means(a, b, aa, ba, True)
        forward = counter.get_total_flops()
        (means[0].sum() + means[1].sum() + means[2].sum()).backward()
    assert forward == 2 * (2 * 2 * 7 * 3 * 3)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("unit", ["P", "T"])
@pytest.mark.slow
def test_compiles_in_one_graph(unit: str) -> None:
    config = MRSTConfig(unit=unit, blocks=(1,), mid=(4,), out=(4,), stem=4, num_steps=2, lstm=4, dropout=0.0)
    model = build_model(config, num_classes=3, crop=16).train()
    clip = {"rgb": torch.randn(2, 2, 3, 16, 16)}
    results: list[Any] = []
    for compiled in (False, True):
        if compiled:
            model.compile_training(backend="aot_eager")
        out = model(clip)["rgb"]
        results.append([out, *torch.autograd.grad(out.square().sum(), [*model.parameters()])])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "unit", "crop"), [("resnet", "T", 16), ("resnet", "P", 16), ("c3d", "S", 32), ("c3d", "C3D", 32)]
)
def test_recomputing_changes_no_number(layout: str, unit: str, crop: int) -> None:
    results: list[list[Tensor]] = []
    for recompute in (False, True):
        torch.manual_seed(3)
        fields: dict[str, Any] = {
            "blocks": (2,),
            "mid": (4,),
            "out": (4,),
            "stem": 4,
            "lstm": 4,
            "c3d_out": (4,) * 8,
            "c3d_fc": 4,
        }
        config = MRSTConfig(layout=layout, unit=unit, num_steps=8, dropout=0.0, recompute=recompute, **fields)
        model = build_model(config, num_classes=3, crop=crop).train()
        out = model({"rgb": torch.randn(2, 8, 3, crop, crop)})["rgb"]
        results.append([out, *torch.autograd.grad(out.square().sum(), [*model.parameters()]), *model.buffers()])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["P", "S", "T", "STF"])
def test_float32_at_full_width(unit: str) -> None:
    """Fast against literal: every stage of Table 1 at its widths, 8 frames of 112 x 112; norm of the difference over
    the norm.

    With fixed BN: batch statistics make float32 gradients of any two orders of summation differ by more than this.
    """
    results: list[list[Tensor]] = []
    for pooled in (True, False):
        torch.manual_seed(1)
        config = MRSTConfig(unit=unit, blocks=(1, 1, 2, 1, 1), num_steps=8, dropout=0.0, pooled_gates=pooled)
        model = build_model(config, num_classes=400, crop=112).eval()
        out = model({"rgb": torch.randn(1, 8, 3, 112, 112)})["rgb"]
        loss = F.cross_entropy(out[:, 0], torch.tensor([7]))
        results.append([out, *torch.autograd.grad(loss, [*model.parameters()])])
    for x, y in zip(*results, strict=True):
        assert (x - y).norm() <= 1e-4 * y.norm()


KERNEL_CHECK = """
import torch
from pipeline.models.mrst import gate as mrst_gate, triton_gate, triton_sum
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
# The interpreter computes with numpy, which lacks bfloat16.
low = torch.bfloat16 if device == "cuda" else torch.float16
for dtype, tolerance in ((torch.float32, 1e-5), (low, 1e-2)):
    for batch, positions, channels in ((1, 1, 1), (2, 70, 5), (2, 130, 40), (1, 64, 72)):
        a, b = (torch.randn(batch, positions, channels).to(device, dtype) for _ in range(2))
        aa, ba = (torch.randn(channels, channels).to(device, dtype) / channels**0.5 for _ in range(2))
        reinforced, mean_a, mean_b, mask = triton_gate.reinforced_means(a, b, aa, ba, True)
        expected = mrst_gate.reinforced_means(*(x.cpu().double() for x in (a, b, aa, ba)), True)
        for x, y in zip((reinforced, mean_a, mean_b), expected):
            assert x.dtype == torch.float32
            torch.testing.assert_close(x.cpu().double(), y, rtol=tolerance, atol=tolerance)
        mixed = a.cpu().double() @ aa.cpu().double().t() + b.cpu().double() @ ba.cpu().double().t()
        assert mask.dtype == torch.bool and mask.shape == a.shape
        assert not ((mask.cpu() != expected[3]) & (mixed.abs() > tolerance)).any()
        assert triton_gate.reinforced_means(a, b, aa, ba, False)[3].numel() == 0
        gates, grad = torch.rand(2, batch, channels, device=device), torch.randn_like(a)
        wide = [x.cpu().double().requires_grad_() for x in (a, b, *gates)]
        found = [triton_sum.gated_sum(a, b, *gates), *triton_sum.gated_sum_backward(grad, a, b, *gates)]
        true = wide[0] * wide[2][:, None] + wide[1] * wide[3][:, None]
        for x, y in zip(found, [true, *torch.autograd.grad(true, wide, grad.cpu().double())]):
            torch.testing.assert_close(x.cpu().double(), y, rtol=tolerance, atol=tolerance * positions**0.5)
print("checked on", device)
"""


def run_kernel_check(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", KERNEL_CHECK], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_triton_kernel_interpreted() -> None:
    """In a process that has TRITON_INTERPRET set before anything imports Triton."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    assert "checked on cpu" in run_kernel_check(os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
def test_triton_kernel_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        if os.environ.get("RECIPROCAL_EXPECT_GPU") == "1":
            pytest.fail("RECIPROCAL_EXPECT_GPU=1, but torch finds no GPU")
        pytest.skip("needs an NVIDIA GPU")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    assert "checked on cuda" in run_kernel_check(environment)
