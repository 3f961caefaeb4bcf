"""Inception v3 against published counts, and against a forward pass written from the paper's blocks A-E."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.backbones.inception_v3 import InceptionV3
from tests.oracles import backbones


@pytest.mark.parametrize(
    ("channels", "side", "giga_macs", "map_side"),
    [(3, 299, 5.711, 8), (10, 299, 5.756, 8), (15, 299, 5.788, 8), (3, 224, 2.836, 5)],
)
@pytest.mark.slow
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
    torch.testing.assert_close(got, backbones.inception_v3(net, x), rtol=1e-10, atol=1e-10)
