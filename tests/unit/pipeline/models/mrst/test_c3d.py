"""The six networks of Table 2: sizes by closed form, cost, and values against the layout written with 3D operations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.model import MRSTConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model, count_parameters
from pipeline.models.mrst.c3d import C3DNet, last_pool
from tests.oracles import mrst_equations


def build(crop: int, num_classes: int, **config: Any) -> C3DNet:
    model = build_model(MRSTConfig(layout="c3d", **config), num_classes=num_classes, crop=crop)
    assert isinstance(model, C3DNet)
    return model


@pytest.mark.parametrize("crop", [112, 224])
@pytest.mark.parametrize(
    ("unit", "num_classes", "paper_mb", "off_mb"),
    [
        ("C3D", 487, 321, 1.1),
        ("STD", 101, 209, 0.2),
        ("STF", 101, 213, 4.2),
        ("P", 101, 211, 1.0),
        ("S", 101, 211, 1.0),
        ("T", 101, 211, 1.0),
    ],
)
def test_sizes_of_table_2(unit: str, num_classes: int, paper_mb: float, off_mb: float, crop: int) -> None:
    """float32 megabytes; Sports-1M's 487 classes for C3D, UCF-101's for the others. STF has no weights of its own:
    213 is unexplained.
    """
    with torch.device("meta"):
        parameters = count_parameters(build(crop, num_classes, unit=unit))
    assert parameters == mrst_equations.count_c3d(unit, num_classes)
    assert abs(4 * parameters / 1e6 - paper_mb) <= off_mb


@pytest.mark.parametrize(("crop", "giga_macs"), [(112, 38.5), (224, 154.0)])
def test_cost_of_c3d(crop: int, giga_macs: float) -> None:
    with torch.device("meta"):
        model = build(crop, 101, unit="C3D")
        with FlopCounterMode(display=False) as counter:
            assert tuple(model({"rgb": torch.empty(1, 16, 3, crop, crop)})["rgb"].shape) == (1, 1, 101)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=0.06)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("unit", "crop"), [("C3D", 32), ("STD", 64), ("STF", 33), ("P", 64), ("S", 40), ("T", 80)])
def test_equals_the_layout_forward_and_backward(unit: str, crop: int, pooled: bool) -> None:
    small = {"c3d_out": (4, 8, 4, 8, 12, 8, 8, 12), "c3d_fc": 6, "num_steps": 8, "dropout": 0.0}
    model = build(crop, 3, unit=unit, pooled_gates=pooled, **small).double().train()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5)
    clip = torch.randn(2, 8, 3, crop, crop, dtype=torch.float64, requires_grad=True)
    leaves = [*model.parameters(), clip]
    ours, theirs = model({"rgb": clip})["rgb"][:, 0], mrst_equations.c3d_net(model, clip)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    direction = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((x * direction).sum(), leaves) for x in (ours, theirs)]
    for (name, _), a, b in zip([*model.named_parameters(), ("clip", None)], *gradients, strict=True):
        assert b.any(), name
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_last_pool_at_112_pixels_is_c3d_s_padded_one() -> None:
    x = torch.randn(1, 2, 2, 7, 7)
    padded = F.pad(x, (1, 0, 1, 0, 0, 0), value=float("-inf"))
    expected = torch.stack(
        [
            torch.stack([padded[:, :, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((2, 3, 4)) for j in range(4)], -1)
            for i in range(4)
        ],
        -2,
    )
    assert torch.equal(last_pool(x)[:, :, 0], expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "C3D"}, r"model\.unit = 'C3D'.*layout c3d"),
        ({"unit": "2D", "layout": "c3d"}, r"model\.unit = '2D'.*layout resnet"),
        ({"layout": "c3d", "num_steps": 4}, r"model\.num_steps = 4.*at least 8"),
        ({"layout": "c3d", "c3d_out": (4, 4)}, r"model\.c3d_out = \(4, 4\).*eight"),
    ],
)
def test_wrong_choices_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MRSTConfig(**fields)


def test_a_crop_too_small_is_named() -> None:
    with pytest.raises(ConfigError, match=r"clip\.crop = 15.*16"):
        build(15, 3, unit="T")
