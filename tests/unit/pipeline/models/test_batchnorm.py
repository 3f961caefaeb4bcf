"""BatchNorm joined over ranks: the same layers by other means, and the statistics of the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from infra.ports import free_port
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import RunConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.batchnorm import batchnorms, synchronise_batchnorm

CONFIGS = [
    CRNConfig(hidden=4, adapted=4, width=0.05, num_steps=2, backbone_stages=3, backbone_norm="partial"),
    MRSTConfig(blocks=(1,), mid=(2,), out=(4,), stem=4, lstm=4, num_steps=2),
    MRSTConfig(layout="c3d", unit="C3D", c3d_out=(4,) * 8, c3d_fc=4, num_steps=8),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["crn", "mrst", "c3d"])
def test_joined_layers_keep_names_parameters_and_what_one_rank_computes(config: CRNConfig | MRSTConfig) -> None:
    torch.manual_seed(0)
    plain = build_model(config, num_classes=5, crop=32).train()
    joined = copy.deepcopy(plain)
    parameters = {name: id(parameter) for name, parameter in joined.named_parameters()}
    learning = [layer.training for layer in batchnorms(joined)]
    synchronise_batchnorm(joined)
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in batchnorms(joined))
    assert [layer.training for layer in batchnorms(joined)] == learning, "frozen ones stay frozen"
    assert {name: id(parameter) for name, parameter in joined.named_parameters()} == parameters
    assert list(joined.state_dict()) == list(plain.state_dict())
    inputs = {m: torch.randn(2, plain.num_steps, plain.channels[m], 32, 32) for m in plain.modalities}
    for train in (True, False):
        outputs = []
        for model in (plain, joined):
            torch.manual_seed(1)
            outputs.append(model.train(train)(inputs))
        for name, scores in outputs[0].items():
            assert torch.equal(scores, outputs[1][name])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, joined.state_dict()[name]), name


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"num_workers": 2, "use_gpu": "no"}, "ranks without a GPU cannot: use run.use_gpu yes, run.num_workers 1, or"),
        ({"freeze_batchnorm": True}, "frozen layers have no statistics to synchronise"),
        ({"compile": True}, "a compiled step is one graph without exchanges between ranks"),
    ],
)
def test_where_layers_cannot_be_joined_the_config_says_so(run: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"run.sync_batchnorm = True: {message}"):
        RunConfig(sync_batchnorm=True, **run)


def test_ranks_that_find_no_gpu_are_refused_too() -> None:
    run = RunConfig(sync_batchnorm=True, num_workers=2, use_gpu="auto")
    run.check_device(gpu=True)
    with pytest.raises(ConfigError, match=r"run\.sync_batchnorm = True: ranks without a GPU cannot"):
        run.check_device(gpu=False)
    RunConfig(sync_batchnorm=True, num_workers=1, use_gpu="no")


def normalised(x_NCHW: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Ioffe and Szegedy 2015, algorithm 1, over all samples and positions."""
    x_NCHW = x_NCHW.double()
    mean = x_NCHW.mean((0, 2, 3), keepdim=True)
    variance = x_NCHW.square().mean((0, 2, 3), keepdim=True) - mean.square()
    scale, shift = (v.double()[:, None, None] for v in (weight, bias))
    return (x_NCHW - mean) / (variance + 1e-5).sqrt() * scale + shift


def _rank(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(6, 3, 4, 5, generator=generator) * 2 + 1
        weight, bias = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0])
        layer = nn.BatchNorm2d(3)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        net = nn.Sequential(layer).cuda()
        synchronise_batchnorm(net)
        own = whole[2 * rank : 2 * rank + 2 + 2 * rank]  # 2 and 4 clips
        own = own.cuda().requires_grad_()
        out = net(own)
        expected_in = whole.double().requires_grad_()
        expected = normalised(expected_in, weight, bias)
        rows = slice(2 * rank, 2 * rank + 2 + 2 * rank)
        torch.testing.assert_close(out.cpu().double(), expected[rows], rtol=1e-4, atol=1e-5)
        factors = torch.randn(6, 3, 4, 5, generator=generator)
        (out * factors[rows].cuda()).sum().backward()
        (expected * factors.double()).sum().backward()
        assert own.grad is not None
        assert expected_in.grad is not None
        torch.testing.assert_close(own.grad.cpu().double(), expected_in.grad[rows], rtol=1e-3, atol=1e-4)
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
def test_two_ranks_normalise_by_the_statistics_of_both() -> None:
    mp.spawn(_rank, args=(free_port(),), nprocs=2)
