"""Weights of one run into the model of another: every tensor but a fresh classifier's, for all networks."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from pipeline.config.model import CRNConfig, ModelConfig, MRSTConfig
from pipeline.errors import ConfigError
from pipeline.models import ActionModel, build_model
from pipeline.models.transfer import classifier_names, load_run_weights

SMALL: dict[str, Any] = {"width": 0.05, "backbone_stages": 3, "hidden": 4, "adapted": 4, "num_steps": 2}
TINY: dict[str, Any] = {"blocks": (1, 1), "mid": (3, 4), "out": (5, 6), "stem": 4, "lstm": 5, "num_steps": 4}
C3D: dict[str, Any] = {"layout": "c3d", "c3d_out": (4,) * 8, "c3d_fc": 6, "num_steps": 8}
HEAD = ("fc.weight", "fc.bias")
# Config -> the classifiers' tensors, told by the modules of the papers' figures.
NETWORKS: dict[str, tuple[ModelConfig, set[str]]] = {
    "crn": (CRNConfig(**SMALL), {f"branches.{m}.head.{n}" for m in ("rgb", "flow") for n in HEAD}),
    "each": (CRNConfig(**SMALL, coupling="each"), {f"branches.{m}.head.{n}" for m in ("rgb", "flow") for n in HEAD}),
    "single": (
        CRNConfig(**SMALL, modalities=("diff",), partner="self", rib="none"),
        {f"branches.diff.head.{n}" for n in HEAD},
    ),
    "early": (CRNConfig(**SMALL, partner="off", fusion="early"), {f"joint.head.{n}" for n in HEAD}),
    "late": (CRNConfig(**SMALL, partner="off", fusion="late"), {f"late.head.{n}" for n in HEAD}),
    "mrst": (MRSTConfig(**TINY), set(HEAD)),
    "2d": (MRSTConfig(**TINY, unit="2D"), set(HEAD)),
    "c3d": (MRSTConfig(**C3D, unit="C3D"), {"fc8.weight", "fc8.bias"}),
    "c3d_t": (MRSTConfig(**C3D), {"fc8.weight", "fc8.bias"}),
}


def build(config: ModelConfig, classes: int) -> ActionModel:
    """With other statistics than a fresh model's."""
    model = build_model(config, num_classes=classes, crop=32)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_all_but_the_classifier_come_along(name: str) -> None:
    config, classifier = NETWORKS[name]
    source, target = build(config, 3), build(config, 5)
    theirs, before = source.state_dict(), {n: t.clone() for n, t in target.state_dict().items()}
    assert set(classifier_names(config, crop=32)) == classifier
    report = load_run_weights(target, theirs, fresh=classifier_names(config, crop=32))
    assert set(report.loaded) == set(before) - classifier
    assert set(report.left_out) == classifier
    for tensor_name, value in target.state_dict().items():
        assert torch.equal(value, before[tensor_name] if tensor_name in classifier else theirs[tensor_name]), (
            tensor_name
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_model_comes_along_whole(name: str) -> None:
    config, _ = NETWORKS[name]
    source, target = build(config, 3), build(config, 3)
    load_run_weights(target, source.state_dict())
    shapes = {m: (1, config.num_steps, c, 32, 32) for m, c in target.channels.items()}
    inputs = {m: torch.randn(shape) for m, shape in shapes.items()}
    with torch.no_grad():
        ours, theirs = target.eval()(inputs), source.eval()(inputs)
    assert all(torch.equal(ours[branch], theirs[branch]) for branch in theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("stages.0.0.reduce.weight"),
            r"stages\.0\.0\.reduce\.weight has shape \(3, 4, 1, 1\) in this model and is missing in that run",
        ),
        (
            lambda s: s.update({"extra.weight": torch.zeros(7, 2)}),
            r"extra\.weight has shape \(7, 2\) in that run and is missing in this model",
        ),
        (
            lambda s: s.update({"lstm.bias_ih_l0": torch.zeros(24)}),
            r"lstm\.bias_ih_l0 has shape \(20,\) here and \(24,\) in that run",
        ),
        (
            lambda s: s.update({"stem.tube.spatial_bn.bias": torch.full((4,), float("inf"))}),
            r"stem\.tube\.spatial_bn\.bias contains a value that is not finite",
        ),
        (
            lambda s: s.update({"fc.weight": torch.zeros(9, 5)}),
            r"fc\.weight has shape \(3, 5\) here and \(9, 5\) in that run",
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_named_and_nothing_is_changed(change: Any, message: str, device: str) -> None:
    config = MRSTConfig(**TINY)
    state = dict(build(config, 3).state_dict())
    change(state)
    with torch.device(device):
        model = build_model(config, num_classes=3, crop=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"start_from = 'runs/a': {message}; use another") as caught:
        load_run_weights(model, state, source="runs/a", fix="use another")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert device == "meta" or all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
