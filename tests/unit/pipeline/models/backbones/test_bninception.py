"""BN-Inception against published counts, and against a forward pass written from the published table."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.backbones.bninception import BNInception, mean_and_projection, projection_and_mean
from tests.oracles import backbones


@pytest.mark.parametrize(
    ("channels", "parameters", "giga_macs"),
    [(3, 10_270_240, 2.032), (10, 10_292_192, 2.307), (15, 10_307_872, 2.504), (2, 10_267_104, 1.992)],
)
@pytest.mark.slow
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
def test_each_stage_has_its_channels_and_side(stages: int, out_channels: int, side: int) -> None:
    with torch.device("meta"):
        net = BNInception(stages=stages)
        assert net.out_channels == out_channels
        assert tuple(net(torch.empty(1, 3, 224, 224)).shape) == (1, out_channels, side, side)


@pytest.mark.parametrize("side", [16, 40, 56, 64, 80, 96, 100, 112])
@pytest.mark.parametrize("stages", [3, 4, 5])
@pytest.mark.slow
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


def test_forward_equals_the_published_table() -> None:
    net = BNInception(width=0.125).double().eval()
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "_bn.bias", ".bias")):
            value.normal_(std=0.1)
        elif name.endswith(("running_var", "_bn.weight")):
            value.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    torch.testing.assert_close(net(x), backbones.bninception(net, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_a_mean_may_be_taken_behind_the_projection(bias: bool) -> None:
    """The order that a GPU takes, in float64: the same values, at the border too."""
    layer, x = torch.nn.Conv2d(20, 5, 1, bias=bias).double(), torch.randn(2, 20, 7, 6).double()
    torch.testing.assert_close(projection_and_mean(layer, x), mean_and_projection(layer, x), rtol=0, atol=1e-12)
