"""MRST-Net against its equations on (B, C, T, H, W) maps, published sizes and costs, and the pooled identity."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.model import MRSTConfig
from pipeline.models import build_model, count_parameters
from pipeline.models.mrst.model import MRSTNet
from pipeline.models.mrst.mutual import MutualGates
from pipeline.models.mrst.unit import ResidualTube, TemporalConv
from tests.oracles import mrst_equations


def small(**changes: Any) -> MRSTConfig:
    base: dict[str, Any] = {
        "blocks": (2, 1),
        "mid": (3, 4),
        "out": (5, 6),
        "stem": 4,
        "num_steps": 4,
        "lstm": 5,
        "dropout": 0.0,
    }
    return MRSTConfig(**{**base, **changes})


def build(config: MRSTConfig, crop: int, num_classes: int = 3) -> MRSTNet:
    model = build_model(config, num_classes=num_classes, crop=crop)
    assert isinstance(model, MRSTNet)
    return model


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    ("unit", "shortcut", "crop"),
    [
        ("P", "pad", 20),
        ("S", "proj", 21),
        ("T", "pad", 24),
        ("T", "proj", 27),
        ("STF", "pad", 21),
        ("STD", "proj", 20),
        ("2D", "proj", 21),
    ],
)
def test_equals_the_equations_forward_and_backward(unit: str, shortcut: str, crop: int, pooled: bool) -> None:
    config = small(unit=unit, shortcut=shortcut, pooled_gates=pooled)
    model = build(config, crop).double().train()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5)
    clip = torch.randn(2, 4, 3, crop, crop, dtype=torch.float64, requires_grad=True)
    leaves = [*model.parameters(), clip]
    ours, theirs = model({"rgb": clip})["rgb"], mrst_equations.mrst_net(model, clip)
    assert tuple(ours.shape) == (2, 1, 3)
    torch.testing.assert_close(ours[:, 0], theirs, rtol=0, atol=1e-10)
    direction = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((x * direction).sum(), leaves) for x in (ours[:, 0], theirs)]
    for (name, _), a, b in zip([*model.named_parameters(), ("clip", None)], *gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("unit", ["P", "S", "T", "STF"])
def test_pooled_gates_equal_map_gates(unit: str) -> None:
    pooled, maps = MutualGates(6, unit, True).double(), MutualGates(6, unit, False).double()
    maps.load_state_dict(pooled.state_dict())
    s, t = (torch.randn(6, 6, 5, 7, dtype=torch.float64).relu().requires_grad_() for _ in range(2))
    results = []
    for gates in (pooled, maps):
        a, b = gates(s, t, 3)
        assert tuple(a.shape) == (2, 6)
        assert ((a > 0) & (a < 1) & (b > 0) & (b < 1)).all()
        results.append((a, b, *torch.autograd.grad((a.square() + 2 * b).sum(), [s, t, *gates.parameters()])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("unit", "pooled", "shortcut", "parameters", "giga_flops"),
    [
        ("T", False, "pad", 36_753_168, 98.91),
        ("T", False, "proj", 36_926_992, 101.38),
        ("T", True, "pad", 36_753_168, 87.41),
        ("S", True, "proj", 36_926_992, 89.88),
        ("P", True, "pad", 36_753_168, 75.91),
        ("STD", True, "pad", 36_753_168 - 4_587_520, 75.90),
        ("STF", True, "pad", 36_753_168 - 4_587_520, 75.90),
    ],
)
@pytest.mark.slow
def test_parameters_and_flops_are_those_of_table_1(
    unit: str, pooled: bool, shortcut: str, parameters: int, giga_flops: float
) -> None:
    """Table 1 at 16x3x224x224 with 400 classes; the paper's 99.6 G are 98.91 plus element-wise work."""
    with torch.device("meta"):
        config = MRSTConfig(unit=unit, pooled_gates=pooled, shortcut=shortcut)  # pyright: ignore[reportArgumentType]
        model = build(config, 224, num_classes=400)
        with FlopCounterMode(display=False) as counter:
            out = model({"rgb": torch.empty(1, 16, 3, 224, 224)})
    assert model.lstm is not None
    assert model.lstm.input_size == 2048
    assert tuple(out["rgb"].shape) == (1, 1, 400)
    assert count_parameters(model) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(giga_flops, abs=6e-3)


@pytest.mark.parametrize(("crop", "side"), [(224, 7), (112, 4), (64, 2), (20, 1)])
def test_lstm_input_follows_the_crop(crop: int, side: int) -> None:
    config = small(blocks=(1, 1, 1), mid=(2, 2, 2), out=(4, 4, 4))
    with torch.device("meta"):
        model = build(config, crop)
        assert model.lstm is not None
        assert model.lstm.input_size == 4 * side * side
        model({"rgb": torch.empty(1, 4, 3, crop, crop)})


def test_temporal_conv_keeps_clips_apart_in_any_memory_layout() -> None:
    conv = TemporalConv(2, 3).double()
    x = torch.randn(8, 2, 3, 5, dtype=torch.float64)
    clips_BCTHW = x.unflatten(0, (2, 4)).transpose(1, 2)
    expected = F.conv3d(clips_BCTHW, conv.weight[..., None], padding=(1, 0, 0)).transpose(1, 2).flatten(0, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(conv(x.contiguous(memory_format=layout), 4), expected, rtol=0, atol=1e-12)


def test_maps_stay_channels_last_so_that_views_are_free() -> None:
    tube = ResidualTube(8, 8, 16, "T", True)
    out = tube(torch.randn(8, 8, 6, 6).contiguous(memory_format=torch.channels_last), 4)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shortcut", ["pad", "proj"])
@pytest.mark.parametrize("unit", ["P", "S", "T", "STF", "STD", "2D"])
def test_every_parameter_gets_a_gradient(unit: str, shortcut: str) -> None:
    model = build(small(unit=unit, shortcut=shortcut, modalities=("flow",)), 32).train()
    generator = torch.Generator().manual_seed(0)
    steps = model.draw_steps(generator)
    assert steps == (3,)
    model({"flow": torch.randn(2, 4, 2, 32, 32)}, steps)["flow"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name
    groups = model.parameter_groups()
    assert groups["backbone"] == []
    assert [id(p) for p in groups["head"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("unit", ["P", "S", "T", "STF"])
def test_every_gate_of_a_network_lies_between_zero_and_one(unit: str) -> None:
    model = build(small(unit=unit, blocks=(2, 2, 2), mid=(8, 8, 8), out=(8, 8, 8)), 32).train()
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, MutualGates):
            module.register_forward_hook(lambda _module, _inputs, gates: seen.extend(gates))
    model({"rgb": torch.randn(2, 4, 3, 32, 32)})
    assert len(seen) == 2 * 7  # of S and of T, in the stem and in six units
    gates = torch.cat([g.flatten() for g in seen])
    assert ((gates > 0) & (gates < 1)).all()
    assert gates.std() > 0.01  # they do not all stay at one value


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("unit", ["P", "S", "T", "STF"])
def test_gates_are_summed_in_float32(unit: str, pooled: bool) -> None:
    gates = MutualGates(4, unit, pooled).bfloat16()
    results = gates(torch.rand(4, 4, 3, 3).bfloat16(), torch.rand(4, 4, 3, 3).bfloat16(), 2)
    assert [g.dtype for g in results] == [torch.float32, torch.float32]


def test_autocast_stays_close() -> None:
    model = build(small(), 32).eval()
    clip = {"rgb": torch.randn(2, 4, 3, 32, 32)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(clip)["rgb"]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, model(clip)["rgb"], rtol=0.1, atol=0.05)


def test_wrong_inputs_are_named() -> None:
    model = build(small(), 32)
    with pytest.raises(ValueError, match=r"rgb: got shape \(1, 4, 3, 64, 64\), expected \(B, 4, 3, 32, 32\)"):
        model({"rgb": torch.zeros(1, 4, 3, 64, 64)})
    with pytest.raises(ValueError, match=r"rgb: got shape \(4, 3, 32, 32\)"):
        model({"rgb": torch.zeros(4, 3, 32, 32)})
    with pytest.raises(ValueError, match=r"pad from 4 to 2"):
        ResidualTube(4, 2, 2, "T", True)
    with pytest.raises(ValueError, match=r"unit: got 'Q'"):
        MutualGates(4, "Q", True)
