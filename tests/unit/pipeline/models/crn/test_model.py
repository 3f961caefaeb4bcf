"""CRN against its equations in a literal loop, published sizes, and identities that must hold."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.model import CRNConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model, count_parameters
from pipeline.models.crn.model import CRN
from tests.oracles.crn_equations import literal

_CHANNELS = {"rgb": 3, "flow": 2, "diff": 3}


def small(**changes: Any) -> CRNConfig:
    base: dict[str, Any] = {"hidden": 6, "adapted": 5, "num_steps": 4, "width": 0.05, "backbone_stages": 3}
    return CRNConfig(**{**base, **changes})


def build(config: CRNConfig, num_classes: int = 3) -> CRN:
    model = build_model(config, num_classes=num_classes, crop=32)
    assert isinstance(model, CRN)
    return model


def clips(config: CRNConfig, batch: int = 2, side: int = 64, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    stack = {m: 1 if m == "rgb" else config.stack for m in config.modalities}
    return {
        m: torch.randn(batch, config.num_steps, _CHANNELS[m] * stack[m], side, side, dtype=dtype)
        for m in config.modalities
    }


@pytest.mark.parametrize(
    ("partner", "rib", "layers", "kernel", "modalities"),
    [
        ("other", "rib", 2, 3, ("rgb", "flow")),
        ("other", "srib", 1, 3, ("rgb", "diff")),
        ("other", "none", 3, 5, ("flow", "rgb")),
        ("self", "rib", 2, 3, ("rgb", "flow")),
        ("self", "none", 1, 1, ("diff",)),
        ("off", "rib", 2, 3, ("rgb", "flow")),
    ],
)
def test_equals_the_equations_forward_and_backward(
    partner: str, rib: str, layers: int, kernel: int, modalities: tuple[str, ...]
) -> None:
    config = small(partner=partner, rib=rib, num_layers=layers, kernel_size=kernel, modalities=modalities, stack=2)
    model = build(config).double().train()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "backbone" not in name:
            torch.nn.init.normal_(parameter)
    inputs = {m: x.requires_grad_() for m, x in clips(config).items()}
    steps, label = (1, 3), torch.tensor([0, 2])
    leaves = [*model.parameters(), *inputs.values()]
    gradients = []
    outputs = []
    for run in (lambda: model(inputs, steps), lambda: literal(model, inputs, steps)):
        out = run()
        loss = sum(
            (F.cross_entropy(q[:, s], label) for q in out.values() for s in range(len(steps))),
            torch.zeros((), dtype=torch.float64),
        )
        gradients.append(torch.autograd.grad(loss, leaves))
        outputs.append(out)
    for m in modalities:
        assert tuple(outputs[0][m].shape) == (2, 2, 3)
        torch.testing.assert_close(outputs[0][m], outputs[1][m], rtol=0, atol=1e-10)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rib", "millions"), [("none", 77.18), ("srib", 81.90), ("rib", 92.39)])
def test_parameters_are_those_of_the_published_layers(rib: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(CRNConfig(rib=rib), num_classes=101, crop=224)  # pyright: ignore[reportArgumentType]
    groups = model.parameter_groups()
    assert sum(p.numel() for p in groups["head"]) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert sum(p.numel() for p in groups["backbone"]) == 10_270_240 + 10_267_104
    everything = [id(p) for group in groups.values() for p in group]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("strategy", ["a", "b", "c", "d"])
@pytest.mark.parametrize("rib", ["rib", "srib", "none"])
@pytest.mark.parametrize("partner", ["other", "self", "off"])
def test_every_parameter_gets_a_gradient(partner: str, rib: str, strategy: str) -> None:
    config = small(partner=partner, rib=rib, strategy=strategy, num_steps=3)
    model = build(config).train()
    steps = model.draw_steps(torch.Generator().manual_seed(1))
    out = model(clips(config, batch=1, side=32, dtype=torch.float32), steps)
    sum(F.cross_entropy(q.flatten(0, 1), torch.zeros(len(steps), dtype=torch.long)) for q in out.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if ".backbone." not in name:  # there, a bias in front of batch normalisation has none by nature
            assert parameter.grad.any(), name


def test_swapping_branches_and_inputs_swaps_outputs() -> None:
    one = build(small(modalities=("rgb", "diff"))).double()
    two = build(small(modalities=("rgb", "diff"))).double()
    swap = {"rgb": "diff", "diff": "rgb"}
    two.load_state_dict({k.replace(k.split(".")[1], swap[k.split(".")[1]], 1): v for k, v in one.state_dict().items()})
    inputs = clips(one.config)
    straight, crossed = one(inputs), two({swap[m]: x for m, x in inputs.items()})
    assert not torch.allclose(straight["rgb"], straight["diff"])
    for m in inputs:
        torch.testing.assert_close(crossed[swap[m]], straight[m], rtol=0, atol=1e-12)


@pytest.mark.parametrize("partner", ["other", "self"])
def test_zero_partner_weights_equal_partner_off(partner: str) -> None:
    model, off = build(small(partner=partner)).double(), build(small(partner="off")).double()
    state = model.state_dict()
    inputs = clips(model.config)
    coupled = model(inputs)
    for m in model.modalities:
        weight, own = state[f"branches.{m}.rab.conv.weight"], model.branch(m).rab.in_channels
        weight[:, own:] = 0
        state[f"branches.{m}.rab.conv.weight"] = weight[:, :own]
    off.load_state_dict({k: v for k, v in state.items() if ".rib." not in k})
    uncoupled, expected = model(inputs), off(inputs)
    for m in inputs:
        torch.testing.assert_close(uncoupled[m], expected[m], rtol=0, atol=1e-12)
        assert not torch.allclose(uncoupled[m], coupled[m])


def test_a_branch_affects_its_partner_one_step_later() -> None:
    config = small()
    model = build(config).double().eval()
    inputs = clips(config)
    before = model(inputs, range(4))["rgb"]
    inputs["flow"][:, 2] += 1
    after = model(inputs, range(4))["rgb"]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_draws_of_each_strategy() -> None:
    generator = torch.Generator().manual_seed(3)
    assert build(small(strategy="a", num_steps=5)).draw_steps(generator) == (4,)
    assert build(small(strategy="b", num_steps=5)).draw_steps(generator) == (0, 1, 2, 3, 4)
    for strategy, outcomes, limit in (
        ("c", 4, 16.3),
        ("d", 6, 20.5),
    ):  # chi-square, 3 and 5 degrees of freedom, p = 0.001
        model = build(small(strategy=strategy, num_steps=5))
        draws = Counter(model.draw_steps(generator) for _ in range(3000))
        size = 2 if strategy == "c" else 3
        assert set(draws) == {(*tau, 4) for tau in itertools.combinations(range(4), size - 1)}
        expected = 3000 / outcomes
        assert sum((n - expected) ** 2 / expected for n in draws.values()) < limit
    again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert [model.draw_steps(again[0]) for _ in range(9)] == [model.draw_steps(again[1]) for _ in range(9)]


def test_last_step_is_the_default_and_steps_do_not_change_scores() -> None:
    config = small()
    model = build(config).double().eval()
    inputs = clips(config)
    everything = model(inputs, (0, 1, 2, 3))
    for m in inputs:
        assert torch.equal(model(inputs)[m], model(inputs, [3])[m])
        torch.testing.assert_close(model(inputs, (0, 2))[m], everything[m][:, [0, 2]], rtol=0, atol=1e-12)


def test_runs_at_64_pixels_and_under_autocast() -> None:
    config = CRNConfig(width=0.25, hidden=16, adapted=16, num_steps=3)
    model = build(config).train()
    inputs = clips(config, side=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(inputs, (0, 2))
    full = model(inputs, (0, 2))
    for m in inputs:
        assert low[m].dtype == torch.float32
        assert tuple(low[m].shape) == (2, 2, 3)
        torch.testing.assert_close(low[m], full[m], rtol=0.1, atol=0.05)


def test_wrong_inputs_are_named() -> None:
    config = small()
    model = build(config)
    good = clips(config, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"flow: missing; got \['rgb'\], expected \['flow', 'rgb'\]"):
        model({"rgb": good["rgb"]})
    with pytest.raises(ValueError, match=r"flow: got shape \(2, 4, 3, 64, 64\), expected \(2, 4, 2, H, W\)"):
        model({**good, "flow": good["rgb"]})
    with pytest.raises(ValueError, match=r"rgb: got shape \(2, 3, 3, 64, 64\), expected \(B, 4, 3, H, W\)"):
        model({**good, "rgb": good["rgb"][:, :3]})
    with pytest.raises(ValueError, match=r"flow: got shape \(1, .*expected \(2, "):
        model({**good, "flow": good["flow"][:1]})
    with pytest.raises(ValueError, match=r"rgb: got dtype torch.uint8"):
        model({**good, "rgb": good["rgb"].byte()})
    for steps in ((), (1, 1), (2, 1), (0, 4), (-1, 3)):
        with pytest.raises(ValueError, match=r"steps: got .* expected ascending, distinct numbers in 0..3"):
            model(good, steps)
    with pytest.raises(ValueError, match=r"expected 3 among them"):
        model(good, (0, 1))
    with pytest.raises(ConfigError, match=r"model.num_steps = 1: .*partner off"):
        small(num_steps=1, strategy="a")


def test_meta_build_needs_no_memory() -> None:
    with torch.device("meta"):
        model = build(small())
    assert all(p.is_meta for p in model.parameters())
    assert count_parameters(model) > 0
