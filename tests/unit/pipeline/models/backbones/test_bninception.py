"""BN-Inception against published counts, and against a forward pass written from the published table."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.backbones.bninception import BNInception


@pytest.mark.parametrize(
    ("channels", "parameters", "giga_macs"),
    [(3, 10_270_240, 2.032), (10, 10_292_192, 2.307), (15, 10_307_872, 2.504), (2, 10_267_104, 1.992)],
)
def test_size_and_cost_at_224(channels: int, parameters: int, giga_macs: float) -> None:
    """11,295,240 parameters are known with the 1000-way classifier's 1,025,000, which is not part of the features."""
    with torch.device("meta"):
        net = BNInception(channels)
        with FlopCounterMode(display=False) as counter:
            out = net(torch.empty(1, channels, 224, 224))
    assert count_parameters(net) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=6e-4)
    assert tuple(out.shape) == (1, 1024, 7, 7)


@pytest.mark.parametrize(("stages", "out_channels", "side"), [(3, 576, 14), (4, 1056, 7), (5, 1024, 7)])
def test_stages(stages: int, out_channels: int, side: int) -> None:
    with torch.device("meta"):
        net = BNInception(stages=stages)
        assert net.out_channels == out_channels
        assert tuple(net(torch.empty(1, 3, 224, 224)).shape) == (1, out_channels, side, side)


@pytest.mark.parametrize("side", [16, 40, 56, 64, 80, 96, 100, 112])
@pytest.mark.parametrize("stages", [3, 4, 5])
def test_small_and_odd_sides(side: int, stages: int) -> None:
    """Every halving rounds up, so the branches of a block agree for each side."""
    with torch.device("meta"):
        net = BNInception(width=0.25, stages=stages)
        out = net(torch.empty(2, 3, side, side))
    halvings = 4 if stages == 3 else 5
    expected = -(-side // 2**halvings)
    assert out.shape[1] == net.out_channels
    # The first two pools have no padding and may drop one cell against a plain division.
    assert out.shape[2] == out.shape[3]
    assert expected - 1 <= out.shape[2] <= expected
    assert out.shape[2] >= 1


def test_width_rounds_up_to_multiples_of_8() -> None:
    with torch.device("meta"):
        net = BNInception(width=0.3)
    assert all(layer.weight.shape[0] % 8 == 0 for layer in net.modules() if isinstance(layer, torch.nn.Conv2d))
    assert net.state_dict()["conv1_7x7_s2.weight"].shape[0] == 24  # 64 * 0.3 = 19.2
    with pytest.raises(ValueError, match="stages: got 2"):
        BNInception(stages=2)


def literal_forward(net: BNInception, x: Tensor) -> Tensor:
    """The network by layer names, in evaluation mode, for sides that are multiples of 32."""
    state = net.state_dict()

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gamma, beta = (
            state[f"{name}_bn.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / torch.sqrt(var + 1e-5) * gamma + beta, min=0)

    x = F.max_pool2d(unit("conv1_7x7_s2", x, 2), 3, 2, ceil_mode=True)
    x = F.max_pool2d(unit("conv2_3x3", unit("conv2_3x3_reduce", x)), 3, 2, ceil_mode=True)
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        n, stride = f"inception_{block}_", 2 if block in ("3c", "4e") else 1
        three = unit(n + "3x3", unit(n + "3x3_reduce", x), stride)
        double = unit(n + "double_3x3_2", unit(n + "double_3x3_1", unit(n + "double_3x3_reduce", x)), stride)
        if stride == 2:
            x = torch.cat([three, double, F.max_pool2d(x, 3, 2, ceil_mode=True)], 1)
            continue
        mean_of_nine = (
            F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-2, -1))
        )  # cells outside count as zeros
        pool = F.max_pool2d(x, 3, 1, 1) if block == "5b" else mean_of_nine
        x = torch.cat([unit(n + "1x1", x), three, double, unit(n + "pool_proj", pool)], 1)
    return x


def test_forward_equals_the_published_table() -> None:
    net = BNInception(width=0.125).double().eval()
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "_bn.bias", ".bias")):
            value.normal_(std=0.1)
        elif name.endswith(("running_var", "_bn.weight")):
            value.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    torch.testing.assert_close(net(x), literal_forward(net, x), rtol=1e-10, atol=1e-10)
