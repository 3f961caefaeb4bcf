"""Helpers every model shares: probabilities, fusion, counting, freezing."""

import pytest
import torch

from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.errors import ConfigError
from pipeline.models import ActionModel, branch_probabilities, build_model, count_parameters, freeze_batchnorm, fuse


def test_probabilities_are_of_the_last_step_and_fusion_is_their_mean() -> None:
    logits = torch.tensor([[[9.0, 9.0, 0.0], [0.0, 0.0, 0.0]]])
    sure = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 100.0, 0.0]]], dtype=torch.bfloat16)
    probabilities = branch_probabilities({"rgb": logits, "flow": sure})
    assert all(p.dtype == torch.float32 for p in probabilities.values())
    torch.testing.assert_close(probabilities["rgb"], torch.full((1, 3), 1 / 3))
    torch.testing.assert_close(fuse(probabilities), torch.tensor([[1 / 6, 2 / 3, 1 / 6]]))
    with pytest.raises(ValueError, match="got no branch"):
        fuse({})


@pytest.mark.parametrize(
    "config",
    [
        CRNConfig(hidden=4, adapted=4, width=0.05, num_steps=2),
        MRSTConfig(blocks=(1,), mid=(2,), out=(4,), stem=4, lstm=4, num_steps=2),
    ],
)
def test_build_model_gives_the_whole_interface(config: CRNConfig | MRSTConfig) -> None:
    model = build_model(config, num_classes=5, crop=32)
    assert isinstance(model, ActionModel)
    assert model.modalities == config.modalities
    assert model.num_steps == config.num_steps
    out = model({m: torch.randn(2, 2, model.channels[m], 32, 32) for m in model.modalities})
    assert {m: tuple(q.shape) for m, q in out.items()} == {m: (2, 1, 5) for m in model.modalities}
    assert count_parameters(model) == sum(p.numel() for group in model.parameter_groups().values() for p in group)
    for field, options in (
        ("num_classes", {"num_classes": 0, "crop": 32}),
        ("clip.crop", {"num_classes": 5, "crop": 0}),
    ):
        with pytest.raises(ConfigError, match=f"{field} = 0"):
            build_model(config, **options)


def test_frozen_batchnorm_neither_learns_nor_follows() -> None:
    model = build_model(
        CRNConfig(hidden=4, adapted=4, width=0.05, num_steps=2, backbone_stages=3), num_classes=5, crop=32
    ).train()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert freeze_batchnorm(model, keep=1) == len(layers) - 1
    before = {n: m.running_mean.clone() for n, m in layers.items() if m.running_mean is not None}
    out = model({m: torch.randn(2, 2, model.channels[m], 32, 32) for m in model.modalities})
    sum(q.square().sum() for q in out.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    moved = [n for n, m in layers.items() if m.running_mean is not None and not torch.equal(m.running_mean, before[n])]
    learning = [n for n, m in layers.items() if m.weight.grad is not None]
    assert moved == learning == ["branches.rgb.backbone.conv1_7x7_s2_bn"]
