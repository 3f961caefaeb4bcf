"""The 2D twin and MRST-Net from it: what is exact, what approaches it, and every file that does not fit."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.model import MRSTConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model, count_parameters
from pipeline.models.mrst.inflate import load_2d_weights, scale_new_parts
from pipeline.models.mrst.model import MRSTNet
from tests.oracles import mrst_equations


def build(unit: str, steps: int = 4, **changes: Any) -> MRSTNet:
    base: dict[str, Any] = {"blocks": (2, 1), "mid": (3, 4), "out": (5, 6), "stem": 4, "lstm": 5, "dropout": 0.0}
    model = build_model(MRSTConfig(unit=unit, num_steps=steps, **{**base, **changes}), num_classes=3, crop=32)
    assert isinstance(model, MRSTNet)
    return model


@pytest.fixture
def twin() -> MRSTNet:
    """After some images, so that running statistics are those of its maps."""
    model = build("2D", steps=1).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=0.7, std=0.3)
        for _ in range(20):
            model({"rgb": torch.randn(8, 1, 3, 32, 32)})
    return model.eval()


def distance(model: MRSTNet, twin: MRSTNet, frames: Tensor) -> float:
    with torch.no_grad():
        ours, theirs = model.eval().features(frames), twin.features(frames)
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("shortcut", ["pad", "proj"])
@pytest.mark.parametrize("unit", ["P", "S", "T", "STD"])
def test_features_go_to_the_twin_s_and_are_equal_at_zero(unit: str, shortcut: str, twin: MRSTNet) -> None:
    """For any clip, a still one among them: with T at 0 and gates at 1/2 of a doubled S, every frame is seen by the
    twin alone.
    """
    if shortcut == "proj":
        twin = build("2D", steps=1, shortcut="proj").eval()
    moving, still = torch.randn(8, 3, 32, 32), torch.randn(2, 1, 3, 32, 32).expand(2, 4, 3, 32, 32).flatten(0, 1)
    apart = {}
    for scale in (1e-2, 1e-3, 0.0):
        model = build(unit, shortcut=shortcut)
        load_2d_weights(model, twin.state_dict())
        torch.manual_seed(5)  # the same fresh matrices at every scale
        for name, parameter in model.named_parameters():
            if "gates" in name or "temporal.weight" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        scale_new_parts(model, scale)
        apart[scale] = distance(model, twin, moving)
        if scale == 0.0:
            assert distance(model, twin, still) < 1e-6
    assert apart[0.0] < 1e-6
    assert 0 < apart[1e-3] < 0.2 * apart[1e-2]
    assert apart[1e-2] < 0.2


@pytest.mark.parametrize("start", ["fresh", "near"])
def test_shared_tensors_are_the_twin_s_and_the_rest_is_reported(start: Any, twin: MRSTNet) -> None:
    model = build("T")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_2d_weights(model, twin.state_dict(), start=start)
    assert sorted(report.left_out) == ["fc.bias", "fc.weight"]
    given = twin.state_dict()
    assert set(report.loaded) == set(given) - {"fc.bias", "fc.weight"}
    for name, value in model.state_dict().items():
        doubled = start == "near" and name.endswith(("spatial_bn.weight", "spatial_bn.bias"))
        scaled = start == "near" and ("gates" in name or name.endswith(("temporal_bn.weight", "temporal_bn.bias")))
        expected = (
            given[name] * (2 if doubled else 1) if name in report.loaded else before[name] * (0.01 if scaled else 1)
        )
        torch.testing.assert_close(value, expected)
    new = {
        name.split(".")[-2 if name.endswith(("weight", "bias")) else -1] for name in set(before) - set(report.loaded)
    }
    assert new <= {
        "temporal",
        "temporal_bn",
        "ss",
        "ts",
        "st",
        "tt",
        "lstm",
        "fc",
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
    } | {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_a_near_start_learns() -> None:
    model = build("T").train()
    load_2d_weights(model, build("2D", steps=1).state_dict(), start="near")
    model({"rgb": torch.randn(2, 4, 3, 32, 32)})["rgb"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_published_twin_has_the_closed_form_s_parameters() -> None:
    """ResNet101* without T, matrices and LSTM, with ImageNet's 1000 classes on 2048 features."""
    with torch.device("meta"):
        model = build_model(MRSTConfig(unit="2D", num_steps=1), num_classes=1000, crop=224)
        assert tuple(model({"rgb": torch.empty(2, 1, 3, 224, 224)})["rgb"].shape) == (2, 1, 1000)
    assert count_parameters(model) == mrst_equations.count_2d_twin(1000)


def test_motion_gets_the_mean_over_rgb(twin: MRSTNet) -> None:
    model = build("T", modalities=("flow",))
    assert load_2d_weights(model, twin.state_dict()).averaged
    mean = twin.state_dict()["stem.spatial.weight"].mean(1)
    for channel in range(2):
        torch.testing.assert_close(model.state_dict()["stem.spatial.weight"][:, channel], mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("stages.0.1.reduce_bn.running_var"),
            r"stages\.0\.1\.reduce_bn\.running_var is missing, expected shape \(3,\)",
        ),
        (lambda s: s.update({"stages.9.0.reduce.weight": torch.zeros(1)}), r"stages\.9\.0\.reduce\.weight is unknown"),
        (lambda s: s.update({"stem.temporal.weight": torch.zeros(4, 3, 3, 1)}), r"stem\.temporal\.weight is unknown"),
        (
            lambda s: s.update({"stages.0.0.restore.weight": torch.zeros(6, 3, 1, 1)}),
            r"stages\.0\.0\.restore\.weight has shape \(6, 3, 1, 1\), expected \(5, 3, 1, 1\)",
        ),
        (
            lambda s: s.update({"stem.tube.spatial_bn.bias": torch.full((4,), float("nan"))}),
            r"stem\.tube\.spatial_bn\.bias contains a value that is not finite",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_changed(change: Any, message: str, twin: MRSTNet) -> None:
    state = dict(twin.state_dict())
    change(state)
    model = build("T")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        load_2d_weights(model, state, source="twin.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_build_model_loads_the_twin_as_the_config_says(twin: MRSTNet) -> None:
    config = dataclasses.replace(build("S").config, pretrained="twin.pt", start="near")
    model = build_model(config, num_classes=3, crop=32, weights=twin.state_dict())
    assert isinstance(model, MRSTNet)
    torch.testing.assert_close(model.stem.spatial.weight, twin.stem.spatial.weight)
    torch.testing.assert_close(model.stem.tube.spatial_bn.bias, 2 * twin.stem.tube.spatial_bn.bias)
    with torch.device("meta"), pytest.raises(ConfigError, match=r"twin\.pt': stages\.0\.0\.reduce\.weight is missing"):
        build_model(config, num_classes=3, crop=32, weights={})


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.start = 'near'.*STF"):
        MRSTConfig(unit="STF", start="near")
    with pytest.raises(ConfigError, match=r"model\.pretrained = 'x'"):
        MRSTConfig(unit="2D", pretrained="x")
