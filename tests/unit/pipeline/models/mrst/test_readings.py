"""Readings that the MRST paper leaves open, each against the equations written with it: scores and all gradients, in
training and in evaluation, in both layouts; and what has no meaning is refused.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import MRSTConfig
from pipeline.config.run import RunConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model, count_parameters
from pipeline.models.flops import forward_flop
from pipeline.models.mrst.c3d import C3DNet
from pipeline.models.mrst.inflate import load_2d_weights, scale_new_parts
from pipeline.models.mrst.model import MRSTNet
from pipeline.models.mrst.mutual import MutualGates, Readings
from tests.oracles import mrst_equations

SMALL: dict[str, Any] = {"dropout": 0.0, "num_steps": 4, "blocks": (2, 1), "mid": (3, 4), "out": (5, 6), "stem": 4}
C3D: dict[str, Any] = {"dropout": 0.0, "num_steps": 8, "layout": "c3d", "c3d_out": (4, 8, 4, 8, 12, 8, 8, 12)}
READINGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "gate_bn": ({"gate_bn": True}, ("P", "S", "T")),
    "gate_bias": ({"gate_bias": True}, ("P", "S", "T")),
    "pool": ({"stem_downsample": "pool"}, ("P", "S", "T", "STF", "STD", "2D")),
    "no LSTM": ({"lstm": 0}, ("T", "STD", "2D")),
    "no ReLU": ({"st_relu": False}, ("P", "S", "T", "STF", "STD", "2D")),
    "all, BN": ({"gate_bn": True, "stem_downsample": "pool", "lstm": 0, "st_relu": False}, ("S",)),
    "all, bias": ({"gate_bias": True, "stem_downsample": "pool", "lstm": 0, "st_relu": False}, ("S", "T")),
}
CASES = [(name, unit) for name, (_, units) in READINGS.items() for unit in units]
IN_C3D = [(name, unit) for name, unit in CASES if name in ("gate_bn", "gate_bias", "no ReLU") and unit != "2D"]


def build(**fields: Any) -> MRSTNet | C3DNet:
    """In float64; BN statistics, biases and scales are those of no fresh network, so that a forgotten one shows."""
    config = MRSTConfig(**{"lstm": 5, **fields})
    model = build_model(config, num_classes=3, crop=21 if config.layout == "resnet" else 32).double()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5)
    for name, buffer in model.named_buffers():
        if buffer.ndim:
            torch.nn.init.uniform_(buffer, *((0.5, 2.0) if name.endswith("var") else (-1.0, 1.0)))
    assert isinstance(model, MRSTNet | C3DNet)
    return model


def literal(model: MRSTNet | C3DNet, clip: Tensor) -> Tensor:
    return mrst_equations.c3d_net(model, clip) if isinstance(model, C3DNet) else mrst_equations.mrst_net(model, clip)


def both(model: MRSTNet | C3DNet) -> list[tuple[str, Tensor, Tensor]]:
    """(name, ours, the equations') of the scores and of the gradients of every parameter and the clip."""
    clip = torch.randn(3, model.num_steps, 3, model.crop, model.crop, dtype=torch.float64, requires_grad=True)
    leaves = [*model.parameters(), clip]
    ours, theirs = model({"rgb": clip})["rgb"][:, 0], literal(model, clip)
    direction = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((x * direction).sum(), leaves) for x in (ours, theirs)]
    names = ["scores", *(name for name, _ in model.named_parameters()), "clip"]
    return list(zip(names, (ours, *gradients[0]), (theirs, *gradients[1]), strict=True))


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("reading", "unit"), CASES)
def test_equals_the_equations_forward_and_backward(reading: str, unit: str, pooled: bool, learns: bool) -> None:
    model = build(**SMALL, **READINGS[reading][0], unit=unit, pooled_gates=pooled).train(learns)
    for name, a, b in both(model):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(("reading", "unit"), IN_C3D)
def test_equals_the_c3d_layout_forward_and_backward(reading: str, unit: str, learns: bool) -> None:
    model = build(**C3D, **READINGS[reading][0], unit=unit, c3d_fc=6).train(learns)
    for name, a, b in both(model):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("reading", READINGS)
def test_each_reading_changes_the_scores(reading: str) -> None:
    """Else a switch that does nothing would pass: the same weights without it give other scores."""
    fields, units = READINGS[reading]
    model, plain = build(**SMALL, **fields, unit=units[-1]), build(**SMALL, unit=units[-1])
    shared = {k: v for k, v in model.state_dict().items() if k in plain.state_dict() and not k.startswith("fc.weight")}
    plain.load_state_dict(shared, strict=False)
    clip = torch.randn(2, 4, 3, 21, 21, dtype=torch.float64)
    assert not torch.allclose(model.eval()({"rgb": clip})["rgb"], plain.eval()({"rgb": clip})["rgb"], atol=1e-3)


@pytest.mark.parametrize("unit", ["P", "S", "T"])
def test_gates_with_bn_that_learns_come_from_maps_and_pooled_ones_are_refused(unit: str) -> None:
    pooled, maps = (MutualGates(4, unit, p, Readings(gate_bn=True)).double().train() for p in (True, False))
    maps.load_state_dict(pooled.state_dict())
    s, t = (torch.randn(6, 4, 5, 3, dtype=torch.float64).relu() for _ in range(2))
    for a, b in zip(pooled(s, t, 2), maps(s, t, 2), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"from_means: .*learns.*use from_maps, or eval\(\)"):
        pooled.from_means(s, t, 2)
    moved = {name: b for name, b in pooled.named_buffers() if "running" in name}
    assert len(moved) == 8
    for name, buffer in maps.named_buffers():
        torch.testing.assert_close(pooled.get_buffer(name), buffer, rtol=0, atol=0)
    for a, b in zip(pooled.eval().from_means(s, t, 2), maps.eval().from_maps(s, t, 2), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_gates_of_a_single_clip_do_not_depend_on_it_while_bn_learns() -> None:
    """What the docstring warns of: GAP of a normalised product is then the shift of its BN."""
    gates = MutualGates(4, "P", True, Readings(gate_bn=True)).double().train()
    one, other = (gates(*torch.rand(2, 3, 4, 5, 5, dtype=torch.float64), 3) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", [{"gate_bn": True}, {"gate_bias": True, "stem_downsample": "pool", "lstm": 0}])
def test_recomputation_changes_no_number(fields: dict[str, Any]) -> None:
    model, other = (build(**SMALL, **fields, unit="T", recompute=r).train() for r in (False, True))
    other.load_state_dict(model.state_dict())
    clip = torch.randn(2, 4, 3, 21, 21, dtype=torch.float64)
    for one in (model, other):
        one({"rgb": clip})["rgb"].square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10, msg=name)
    for (name, a), (_, b) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"gate_bn": True}, {"gate_bias": True}, {"stem_downsample": "pool", "lstm": 0, "st_relu": False}]
)
def test_compiles_in_one_graph(fields: dict[str, Any]) -> None:
    model, plain = (build(**SMALL, **fields, unit="T").train() for _ in range(2))
    plain.load_state_dict(model.state_dict())
    clip = torch.randn(2, 4, 3, 21, 21, dtype=torch.float64)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model.compile_training(backend=counter)
    for one in (model, plain):
        one({"rgb": clip})["rgb"].square().sum().backward()
    assert counter.frame_count == 1
    for (name, a), (_, b) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("start", ["fresh", "near"])
@pytest.mark.parametrize("reading", ["gate_bn", "gate_bias", "no LSTM", "pool", "no ReLU"])
def test_inflation_takes_the_twin_and_leaves_the_new_parts(reading: str, start: Any) -> None:
    shared = {k: v for k, v in READINGS[reading][0].items() if k in ("lstm", "stem_downsample", "st_relu")}
    twin = build(**{**SMALL, "num_steps": 1}, **shared, unit="2D")
    model = build(**SMALL, **READINGS[reading][0], unit="T")
    assert isinstance(model, MRSTNet)
    report = load_2d_weights(model, twin.state_dict(), start=start)
    assert sorted(report.left_out) == ["fc.bias", "fc.weight"]
    assert set(report.loaded) == set(twin.state_dict()) - {"fc.bias", "fc.weight"}


@pytest.mark.parametrize("fields", [{"gate_bn": True}, {"gate_bias": True}])
@pytest.mark.parametrize("learns", [True, False])
def test_a_near_start_goes_to_the_twin(fields: dict[str, Any], learns: bool) -> None:
    """As without the reading, for BN that learns too; and a scaled matrix in front of BN would have no effect."""
    twin = build(**{**SMALL, "num_steps": 1}, unit="2D").eval()
    assert isinstance(twin, MRSTNet)
    frames, apart = torch.randn(8, 3, 21, 21, dtype=torch.float64), []
    for scale in (1e-2, 1e-4):
        torch.manual_seed(1)
        model = build(**SMALL, **fields, unit="T")
        assert isinstance(model, MRSTNet)
        load_2d_weights(model, twin.state_dict())
        scale_new_parts(model, scale)
        model.eval()
        for gates in (m for m in model.modules() if isinstance(m, MutualGates)):
            gates.train(learns)
        with torch.no_grad():
            expected = twin.features(frames)
            apart.append(float((model.features(frames) - expected).norm() / expected.norm()))
    assert apart[1] < 0.05 * apart[0] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "parameters", "giga_flops"),
    [
        ({"pooled_gates": False, "stem_downsample": "pool"}, 0, 110.9),
        ({"pooled_gates": False, "stem_downsample": "pool", "shortcut": "proj"}, 36_926_992 - 36_753_168, 113.4),
        ({"pooled_gates": False}, 0, 98.91),
        ({"gate_bn": True}, 8 * 5_632, 98.91),  # 5632: channels of all 34 tubes
        ({"gate_bias": True}, 4 * 5_632, 87.41),
        ({"lstm": 0}, -12_591_104 + 1024 * 400, 87.41 - 0.403 + 2 * 1024 * 400 / 1e9),
        ({"st_relu": False}, 0, 87.41),
    ],
)
def test_sizes_of_the_readings_at_the_paper_s_size(fields: dict[str, Any], parameters: int, giga_flops: float) -> None:
    """Differences to MRST-Net of T units with 36,753,168 parameters. Without LSTM the classifier has 2048 inputs, not
    1024; with BN in the gates a training step forms all four products of maps.
    """
    with torch.device("meta"):
        model = build_model(MRSTConfig(**fields), num_classes=400, crop=224).train()
        flop = forward_flop(model, {"rgb": torch.empty(1, 16, 3, 224, 224)})
    assert count_parameters(model) == 36_753_168 + parameters
    assert flop / 1e9 == pytest.approx(giga_flops, abs=0.06 if giga_flops > 100 else 6e-3)


@pytest.mark.parametrize("unit", ["STF", "STD", "2D", "C3D"])
@pytest.mark.parametrize("field", ["gate_bn", "gate_bias"])
def test_units_without_matrices_have_no_gate_readings(unit: str, field: str) -> None:
    fields: dict[str, Any] = {"unit": unit, "layout": "c3d" if unit == "C3D" else "resnet", field: True}
    with pytest.raises(ConfigError, match=rf"model\.{field} = True: unit {unit} has no matrices: use unit P, S or T"):
        MRSTConfig(**fields)


def test_bn_in_the_gates_needs_two_clips_at_once() -> None:
    model, clip = MRSTConfig(gate_bn=True), ClipConfig(num_frames=16)
    alone = DataConfig(batch_size=8, micro_batch=1)
    with pytest.raises(ConfigError, match=r"model\.gate_bn = True: .*a single clip, .*data\.micro_batch"):
        TrainConfig(model=model, clip=clip, data=alone)
    TrainConfig(model=model, clip=clip, data=DataConfig(batch_size=8, micro_batch=2))
    TrainConfig(model=model, clip=clip, data=alone, run=RunConfig(num_workers=2, sync_batchnorm=True))
    TrainConfig(model=model, clip=clip, data=alone, run=RunConfig(freeze_batchnorm=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate_bn": True, "gate_bias": True}, r"model\.gate_bias = True: the BN of gate_bn takes away any bias"),
        ({"unit": "C3D", "layout": "c3d", "st_relu": False}, r"model\.st_relu = False: unit C3D has no S and T"),
        ({"layout": "c3d", "stem_downsample": "pool"}, r"model\.stem_downsample = 'pool': conv1 of model\.layout c3d"),
        ({"layout": "c3d", "lstm": 0}, r"model\.lstm = 0: model\.layout c3d has no LSTM"),
        ({"lstm": -1}, r"model\.lstm = -1: must be at least 1, or 0 for no LSTM"),
    ],
)
def test_readings_without_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MRSTConfig(**fields)
