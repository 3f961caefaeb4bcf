"""Inception v3 against published counts, and against a forward pass written from the paper's blocks A-E."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.backbones.inception_v3 import InceptionV3


@pytest.mark.parametrize(
    ("channels", "side", "giga_macs", "map_side"),
    [(3, 299, 5.711, 8), (10, 299, 5.756, 8), (15, 299, 5.788, 8), (3, 224, 2.836, 5)],
)
def test_size_and_cost(channels: int, side: int, giga_macs: float, map_side: int) -> None:
    """23,834,568 parameters are known without the auxiliary head, 2,049,000 of them the 1000-way classifier's."""
    with torch.device("meta"):
        net = InceptionV3(channels)
        with FlopCounterMode(display=False) as counter:
            out = net(torch.empty(1, channels, side, side))
    assert count_parameters(net) == 23_834_568 - 2_049_000 + 9 * 32 * (channels - 3)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=6e-4)
    assert tuple(out.shape) == (1, 2048, map_side, map_side)


@pytest.mark.parametrize(
    ("stages", "out_channels", "least", "side_of_299"), [(3, 288, 27, 35), (4, 768, 43, 17), (5, 2048, 75, 8)]
)
def test_stages_and_least_side(stages: int, out_channels: int, least: int, side_of_299: int) -> None:
    with torch.device("meta"):
        net = InceptionV3(stages=stages).eval()
        assert (net.out_channels, net.min_side) == (out_channels, least)
        assert tuple(net(torch.empty(1, 3, 299, 299)).shape) == (1, out_channels, side_of_299, side_of_299)
        assert tuple(net(torch.empty(1, 3, least, least)).shape) == (1, out_channels, 1, 1)
        with pytest.raises(RuntimeError, match="size"):
            net(torch.empty(1, 3, least - 1, least - 1))


def test_width_and_wrong_stages() -> None:
    with torch.device("meta"):
        net = InceptionV3(width=0.3)
    assert all(layer.weight.shape[0] % 8 == 0 for layer in net.modules() if isinstance(layer, torch.nn.Conv2d))
    assert net.state_dict()["Conv2d_1a_3x3.conv.weight"].shape[0] == 16  # 32 * 0.3 = 9.6
    with pytest.raises(ValueError, match="stages: got 6"):
        InceptionV3(stages=6)


def literal_forward(net: InceptionV3, x: Tensor) -> Tensor:
    """The network by layer names, in evaluation mode."""
    state = net.state_dict()

    def unit(name: str, x: Tensor, stride: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=pad)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / torch.sqrt(var + 1e-3) * gamma + beta, min=0)

    def mean_of_nine(x: Tensor) -> Tensor:
        return F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-2, -1))  # cells outside count as zeros

    x = unit("Conv2d_2b_3x3", unit("Conv2d_2a_3x3", unit("Conv2d_1a_3x3", x, 2)), pad=(1, 1))
    x = unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", F.max_pool2d(x, 3, 2)))
    x = F.max_pool2d(x, 3, 2)
    row, column = (0, 3), (3, 0)  # padding of 1x7 and 7x1
    for n in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        five = unit(n + "branch5x5_2", unit(n + "branch5x5_1", x), pad=(2, 2))
        double = unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1))
        double = unit(n + "branch3x3dbl_3", double, pad=(1, 1))
        x = torch.cat([unit(n + "branch1x1", x), five, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    n = "Mixed_6a."
    double = unit(n + "branch3x3dbl_3", unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1)), 2)
    x = torch.cat([unit(n + "branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)
    for n in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        seven = unit(n + "branch7x7_3", unit(n + "branch7x7_2", unit(n + "branch7x7_1", x), pad=row), pad=column)
        double = unit(
            n + "branch7x7dbl_3", unit(n + "branch7x7dbl_2", unit(n + "branch7x7dbl_1", x), pad=column), pad=row
        )
        double = unit(n + "branch7x7dbl_5", unit(n + "branch7x7dbl_4", double, pad=column), pad=row)
        x = torch.cat([unit(n + "branch1x1", x), seven, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    n = "Mixed_7a."
    three = unit(n + "branch3x3_2", unit(n + "branch3x3_1", x), 2)
    seven = unit(n + "branch7x7x3_3", unit(n + "branch7x7x3_2", unit(n + "branch7x7x3_1", x), pad=row), pad=column)
    x = torch.cat([three, unit(n + "branch7x7x3_4", seven, 2), F.max_pool2d(x, 3, 2)], 1)
    for n in ("Mixed_7b.", "Mixed_7c."):
        three = unit(n + "branch3x3_1", x)
        three = torch.cat([unit(n + "branch3x3_2a", three, pad=(0, 1)), unit(n + "branch3x3_2b", three, pad=(1, 0))], 1)
        double = unit(n + "branch3x3dbl_2", unit(n + "branch3x3dbl_1", x), pad=(1, 1))
        double = torch.cat(
            [unit(n + "branch3x3dbl_3a", double, pad=(0, 1)), unit(n + "branch3x3dbl_3b", double, pad=(1, 0))], 1
        )
        x = torch.cat([unit(n + "branch1x1", x), three, double, unit(n + "branch_pool", mean_of_nine(x))], 1)
    return x


def test_forward_equals_the_published_blocks() -> None:
    net = InceptionV3(width=0.125).double().eval()
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "bn.bias")):
            value.normal_(std=0.1)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 107, 91, dtype=torch.float64)
    got = net(x)
    assert got.abs().max() > 0.1
    torch.testing.assert_close(got, literal_forward(net, x), rtol=1e-10, atol=1e-10)
