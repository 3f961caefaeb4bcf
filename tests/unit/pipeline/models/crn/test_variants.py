"""Every reading of the CRN paper against its equations, clip by clip and step by step; sizes; options that must not
change a number.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.config.model import CHANNELS, CRNConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.crn.model import CRN
from pipeline.training.loss import supervised_loss
from tests.oracles.crn_equations import literal


def small(**changes: Any) -> CRNConfig:
    base: dict[str, Any] = {"hidden": 6, "adapted": 5, "num_steps": 3, "width": 0.05, "backbone_stages": 3}
    return CRNConfig(**{**base, **changes})


def build(config: CRNConfig) -> CRN:
    """In float64, with biases that are not zero, so that a forgotten one shows."""
    model = build_model(config, num_classes=3, crop=48)
    assert isinstance(model, CRN)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "backbone" not in name:
            torch.nn.init.normal_(parameter)
    return model.double().train()


def clips(config: CRNConfig, batch: int = 2, side: int = 48) -> dict[str, Tensor]:
    stack = {m: 1 if m == "rgb" else config.stack for m in config.modalities}
    return {
        m: torch.randn(batch, config.num_steps, CHANNELS[m] * stack[m], side, side, dtype=torch.float64)
        for m in config.modalities
    }


def run_and_gradients(
    run: Callable[[], dict[str, Tensor]], leaves: list[Tensor]
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    out = run()
    label = torch.tensor([0, 2])
    losses = [F.cross_entropy(q[:, s], label) for q in out.values() for s in range(q.shape[1])]
    return out, torch.autograd.grad(torch.stack(losses).sum(), leaves)


VARIANTS: dict[str, dict[str, Any]] = {
    "sum": {"rib_form": "sum"},
    "split": {"rib_form": "split", "hidden": 7},
    "bottleneck": {"rib_form": "bottleneck", "hidden": 9},
    "bottleneck linear, one dilation": {"rib_form": "bottleneck", "rib_dilations": (2,), "rib_activation": "none"},
    "dilations 1, 2, 4, linear": {"rib_dilations": (1, 2, 4), "rib_activation": "none"},
    "sum linear": {"rib_form": "sum", "rib_activation": "none"},
    "srib linear": {"rib": "srib", "rib_activation": "none"},
    "RAB as wide as X": {"adapted": 0},
    "each layer": {"coupling": "each", "num_layers": 3},
    "RIB(0)": {"first_partner": "rib"},
    "RIB(0), bottleneck": {"first_partner": "rib", "rib_form": "bottleneck", "hidden": 9},
    "RIB(0), sRIB, each layer, itself": {
        "first_partner": "rib",
        "rib": "srib",
        "coupling": "each",
        "partner": "self",
        "num_layers": 3,
    },
    "RIB, itself": {"partner": "self"},
    "each layer, no RIB, RAB as wide as X": {"coupling": "each", "rib": "none", "adapted": 0},
    "each layer, itself": {"coupling": "each", "partner": "self", "rib_form": "sum"},
    "early": {"fusion": "early", "partner": "off"},
    "early, RAB as wide as X, kernel 5": {"fusion": "early", "partner": "off", "adapted": 0, "kernel_size": 5},
    "late": {"fusion": "late", "partner": "off"},
    "late, one layer": {"fusion": "late", "partner": "off", "num_layers": 1},
    "Inception v3": {"backbone": "inceptionv3", "stack": 2, "modalities": ("diff", "rgb")},
    "Inception v3, early": {"backbone": "inceptionv3", "fusion": "early", "partner": "off"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_equations_forward_and_backward(name: str) -> None:
    config = small(**VARIANTS[name])
    model = build(config)
    inputs = {m: x.requires_grad_() for m, x in clips(config).items()}
    leaves, steps = [*model.parameters(), *inputs.values()], (0, 2)
    ours, our_gradients = run_and_gradients(lambda: model(inputs, steps), leaves)
    theirs, their_gradients = run_and_gradients(lambda: literal(model, inputs, steps), leaves)
    assert list(ours) == (["fused"] if config.fusion != "none" else list(config.modalities))
    for key, scores in ours.items():
        assert tuple(scores.shape) == (2, 2, 3)
        torch.testing.assert_close(scores, theirs[key], rtol=0, atol=1e-10)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("option", ["exact_literal", "recompute"])
@pytest.mark.parametrize(
    "name",
    ["sum", "each layer", "RIB(0), bottleneck", "RIB(0), sRIB, each layer, itself", "early", "late", "Inception v3"],
)
def test_options_do_not_change_a_number(name: str, option: str) -> None:
    config = small(**VARIANTS[name])
    model, other = build(config), build(small(**VARIANTS[name], **{option: True}))
    other.load_state_dict(model.state_dict())
    inputs = clips(config)
    out, gradients = run_and_gradients(lambda: model(inputs, (0, 2)), list(model.parameters()))
    again, same = run_and_gradients(lambda: other(inputs, (0, 2)), list(other.parameters()))
    for key in out:
        torch.testing.assert_close(again[key], out[key], rtol=0, atol=1e-10)
    for one, two in zip(gradients, same, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-10)
    moved = {
        k: v for k, v in other.state_dict().items() if "running" in k or "tracked" in k
    }  # once a step, not once more in the backward pass
    for key, value in moved.items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("exact_literal", [False, True])
def test_rib_of_zero_differs_by_the_biases_of_rib_alone(exact_literal: bool) -> None:
    zero, rib = (build(small(first_partner=f, exact_literal=exact_literal)).eval() for f in ("zero", "rib"))
    rib.load_state_dict(zero.state_dict())
    inputs = clips(zero.config)
    assert not torch.allclose(zero(inputs)["rgb"], rib(inputs)["rgb"], atol=1e-6)
    for model in (zero, rib):
        for name, parameter in model.named_parameters():
            if ".rib." in name and name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
    for m in inputs:
        torch.testing.assert_close(zero(inputs)[m], rib(inputs)[m], rtol=0, atol=1e-12)


@pytest.mark.parametrize("option", [{}, {"exact_literal": True}])
def test_recompute_keeps_fewer_activations(option: dict[str, bool]) -> None:
    kept = {}
    for recompute in (False, True):
        model = build(small(num_steps=4, recompute=recompute, **option))
        inputs, total = clips(model.config), [0]

        def count(x: Tensor, total: list[int] = total) -> Tensor:
            total[0] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model(inputs)
        kept[recompute] = total[0]
    assert kept[True] < 0.6 * kept[False]


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"rib_form": "sum"}, 91.34),
        ({"rib_form": "split"}, 81.90),
        ({"rib_form": "bottleneck"}, 78.86),
        ({"backbone": "inceptionv3", "rib": "none"}, 78.23),
        ({"backbone": "inceptionv3", "rib": "srib"}, 82.95),
        ({"backbone": "inceptionv3"}, 93.44),
        ({"backbone": "inceptionv3", "rib_form": "sum"}, 92.39),
        ({"backbone": "inceptionv3", "rib_form": "bottleneck"}, 79.91),
        ({"fusion": "early", "partner": "off"}, 38.85),
        ({"fusion": "early", "partner": "off", "backbone": "inceptionv3"}, 39.90),
        ({"fusion": "late", "partner": "off"}, 77.13),
        # a second RIB (7,079,424) and RAB (4 * 512 * 512 + 512) per branch
        ({"coupling": "each"}, 92.39 + 2 * (7.079424 + 1.049088)),
    ],
)
def test_sizes_without_the_backbones(changes: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        model = build_model(CRNConfig(**changes), num_classes=101, crop=224)
    groups = model.parameter_groups()
    assert sum(p.numel() for p in groups["head"]) / 1e6 == pytest.approx(millions, abs=6e-3)
    backbones = 10_270_240 + 10_267_104 if changes.get("backbone") is None else 2 * 21_785_568 - 9 * 32
    assert sum(p.numel() for p in groups["backbone"]) == backbones
    assert sorted(id(p) for group in groups.values() for p in group) == sorted(id(p) for p in model.parameters())


def test_rab_as_wide_as_the_features_costs_what_the_arithmetic_says() -> None:
    """RAB grows from 512 to Cx = 1024 outputs, and the first layer's input with it."""
    with torch.device("meta"):
        narrow, wide = (build_model(CRNConfig(adapted=r), num_classes=101, crop=224) for r in (512, 0))
    more = sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in narrow.parameters())
    assert more == 2 * ((1024 + 3 * 512 + 1) * 512 + 9 * 512 * 2048)


@pytest.mark.parametrize("name", ["early", "late", "each layer", "bottleneck"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(small(**{**VARIANTS[name], "hidden": 32}))  # wide enough that no ReLU is dead by chance
    _, gradients = run_and_gradients(lambda: model(clips(model.config), (2,)), list(model.parameters()))
    for (parameter, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        if ".backbone." not in parameter:  # there, a bias in front of batch normalisation has none by nature
            assert gradient.any(), parameter


def test_one_step_is_a_plain_two_stream_network() -> None:
    """T = 1: each stream is its features, a 1x1, layers of gated units that remember nothing, and a classifier."""
    config = small(num_steps=1, partner="off", strategy="a")
    model = build(config)
    inputs = clips(config)
    w = dict(model.named_parameters())
    out = model(inputs)
    for m in inputs:
        p = f"branches.{m}."
        x = F.conv2d(model.backbone(m)(inputs[m][:, 0]), w[f"{p}rab.conv.weight"], w[f"{p}rab.conv.bias"])
        for layer in range(2):
            weight, bias = w[f"{p}cells.{layer}.gates.weight"][:, : x.shape[1]], w[f"{p}cells.{layer}.gates.bias"]
            i, _, o, g = F.conv2d(x, weight, bias, padding=1).chunk(4, dim=1)
            x = o.sigmoid() * torch.tanh(i.sigmoid() * g.tanh())
        expected = F.linear(x.mean((2, 3)), w[f"{p}head.fc.weight"], w[f"{p}head.fc.bias"])
        torch.testing.assert_close(out[m][:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [{"coupling": "each"}, {"rib_form": "bottleneck"}])
def test_swapping_branches_and_inputs_swaps_outputs(changes: dict[str, Any]) -> None:
    one, two = (build(small(modalities=("rgb", "diff"), **changes)) for _ in range(2))
    swap = {"rgb": "diff", "diff": "rgb"}
    two.load_state_dict({k.replace(k.split(".")[1], swap[k.split(".")[1]], 1): v for k, v in one.state_dict().items()})
    inputs = clips(one.config)
    straight, crossed = one(inputs), two({swap[m]: x for m, x in inputs.items()})
    for m in inputs:
        torch.testing.assert_close(crossed[swap[m]], straight[m], rtol=0, atol=1e-12)


def test_no_coupling_weights_no_coupling() -> None:
    """With the partner's half of every RAB at zero, a change of one stream's input leaves the other's scores as they
    were.
    """
    model = build(small(coupling="each")).eval()
    inputs = clips(model.config)
    changed = {**inputs, "flow": inputs["flow"] + 1}
    assert not torch.allclose(model(inputs)["rgb"], model(changed)["rgb"])
    with torch.no_grad():
        for m in model.modalities:
            for rab in (model.branch(m).rab, *model.branch(m).upper_rabs):
                rab.conv.weight[:, rab.in_channels :] = 0  # pyright: ignore
    assert torch.equal(model(inputs)["rgb"], model(changed)["rgb"])
    assert not torch.allclose(model(inputs)["flow"], model(changed)["flow"])


@pytest.mark.parametrize(("norm", "learning"), [("train", None), ("partial", 2), ("frozen", 0)])
def test_backbone_norm_decides_which_running_means_move(norm: str, learning: int | None) -> None:
    model = build(small(backbone_norm=norm)).eval().train()
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    expected = len(layers) if learning is None else learning
    before = [layer.running_mean.clone() for layer in layers if layer.running_mean is not None]
    model(clips(model.config))
    assert (
        sum(not torch.equal(layer.running_mean, mean) for layer, mean in zip(layers, before, strict=True)) == expected
    )  # pyright: ignore
    assert sum(layer.weight.requires_grad for layer in layers) == expected
    if norm == "partial":
        first = [model.backbone(m).get_submodule("conv1_7x7_s2_bn") for m in model.modalities]
        assert all(layer.training for layer in first)
    assert not any(layer.training for layer in model.eval().modules())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rib_dilations": ()}, "model.rib_dilations"),
        ({"rib_dilations": (0, 1)}, "model.rib_dilations"),
        ({"rib": "srib", "rib_form": "sum"}, "model.rib_form"),
        ({"rib": "none", "rib_dilations": (1, 2)}, "model.rib_dilations"),
        ({"hidden": 2, "rib_form": "split"}, "model.hidden"),
        ({"hidden": 3, "rib_form": "bottleneck"}, "model.hidden"),
        ({"coupling": "each", "partner": "off"}, "model.coupling"),
        ({"fusion": "late"}, "model.partner"),
        ({"fusion": "early", "partner": "self"}, "model.partner"),
        ({"fusion": "late", "partner": "off", "modalities": ("rgb",)}, "model.fusion"),
        ({"adapted": -1}, "model.adapted"),
        ({"first_partner": "rib", "rib": "none"}, "model.first_partner"),
        ({"first_partner": "rib", "partner": "off"}, "model.first_partner"),
    ],
)
def test_impossible_configs_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} = "):
        small(**changes)


def test_a_crop_too_small_for_the_backbone_is_refused() -> None:
    config = CRNConfig(backbone="inceptionv3", width=0.05, hidden=4, adapted=4)
    with pytest.raises(ConfigError, match=r"clip.crop = 74: inceptionv3 with 5 stages needs at least 75"):
        build_model(config, num_classes=3, crop=74)
    build_model(config, num_classes=3, crop=75)


def test_strategy_c_with_a_fixed_draw_is_the_sum_by_hand() -> None:
    """Equation 8 with the set {tau, T}: four cross entropies, each minus the logarithm of a softmax."""
    config = small(num_steps=4, strategy="c")
    model = build(config)
    inputs, labels = clips(config), [0, 2]
    steps = model.draw_steps(torch.Generator().manual_seed(5))
    assert len(steps) == 2
    assert steps[1] == 3
    out, every = model(inputs, steps), literal(model, inputs, (0, 1, 2, 3))
    by_hand = torch.zeros((), dtype=torch.float64)
    for m in inputs:
        for t in (steps[0], 3):
            for clip, label in enumerate(labels):
                scores = every[m][clip, t]
                by_hand = by_hand - torch.log(scores[label].exp() / scores.exp().sum())
    loss = supervised_loss(out, torch.tensor(labels), torch.ones(2), torch.tensor(1.0))
    torch.testing.assert_close(loss.double(), by_hand, rtol=1e-6, atol=0)  # the loss is formed in float32


@pytest.mark.parametrize(
    "changes",
    [
        {"modalities": ("rgb", "diff")},
        {"modalities": ("rgb",), "partner": "self", "recompute": True},
        {"modalities": ("rgb", "diff"), "first_partner": "rib"},
    ],
)
@pytest.mark.slow
def test_one_graph_without_breaks_serves_every_draw(changes: dict[str, Any]) -> None:
    model, plain = build(small(**changes)), build(small(**changes))
    plain.load_state_dict(model.state_dict())
    inputs = clips(model.config)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model.compile_training(backend=counter)
    for steps in ((0, 2), (1, 2)):
        out, gradients = run_and_gradients(lambda steps=steps: model(inputs, steps), list(model.parameters()))
        expected, same = run_and_gradients(lambda steps=steps: plain(inputs, steps), list(plain.parameters()))
        for key in expected:
            torch.testing.assert_close(out[key], expected[key], rtol=0, atol=1e-10)
        for one, two in zip(gradients, same, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    assert counter.frame_count == 1
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=1e-12)
    model.eval()({m: x[:1] for m, x in inputs.items()})
    assert counter.frame_count == 1  # other shapes come in evaluation, which is not compiled
