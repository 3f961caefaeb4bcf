"""Checkpoints of wrapped networks, and public weights under frozen batch normalisation with flow."""

import io
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.run import RunConfig
from pipeline.config.train import TrainConfig
from pipeline.data.decoding.norms import mean_std
from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3
from pipeline.models.backbones.public_weights import flow_scale, load_backbone, parse_weights
from pipeline.models.crn.model import CRN
from pipeline.runs.start_weights import find_start, first_model

State = dict[str, Tensor]
CLASSES = {"bninception": BNInception, "inceptionv3": InceptionV3}


def public(backbone: str) -> State:
    """Weights of the published names and shapes, with statistics of no fresh network."""
    state = CLASSES[backbone]().state_dict()
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(value, *((0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)))
        elif name.endswith(("_bn.bias", ".bn.bias")):
            torch.nn.init.constant_(value, 0.1)  # so that something is left of every map behind its ReLU
    return {name: value for name, value in state.items() if "num_batches" not in name}


def saved(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return public("bninception")


@pytest.mark.parametrize("prefix", ["module.", "base_model.", "module.base_model."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, state: State) -> None:
    wrapped = {prefix + name: value for name, value in state.items()}
    wrapped |= {"module.new_fc.weight": torch.zeros(101, 1024), "module.new_fc.bias": torch.zeros(101)}
    file = saved({"epoch": 340, "arch": "BNInception", "state_dict": wrapped, "best_prec1": torch.tensor(85.0)})
    net = BNInception(stages=3)
    report = load_backbone(net, parse_weights(file, "tsn.pth.tar"), source="tsn.pth.tar")
    own = net.state_dict()
    assert set(report.loaded) == {name for name in own if "num_batches" not in name}
    assert all(torch.equal(own[name], state[name]) for name in report.loaded)
    assert set(report.left_out) == (set(state) | {"new_fc.bias", "new_fc.weight"}) - set(report.loaded)


def test_after_the_prefix_everything_is_checked_as_before(state: State) -> None:
    wrapped = {f"module.base_model.{name}": value for name, value in state.items()}

    def refused(changed: State, match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            load_backbone(BNInception(), changed, source="x")

    missing = "module.base_model.conv2_3x3.bias"
    refused({k: v for k, v in wrapped.items() if k != missing}, r"conv2_3x3\.bias is missing")
    refused({**wrapped, "module.base_model.layer1.weight": torch.zeros(1)}, r"layer1\.weight is unknown")
    # Which of the two is meant, nobody knows.
    refused({**state, "module.conv2_3x3.bias": state["conv2_3x3.bias"]}, r"module\.conv2_3x3\.bias is unknown")
    foreign = {"module.base_model.layer1.0.conv1.weight": torch.zeros(1), "module.base_model.fc.weight": torch.zeros(1)}
    match = r"none of its 2 tensors, such as module\.base_model\.layer1\.0\.conv1\.weight, has a name of that network"
    refused(foreign, match)


@pytest.mark.parametrize(("backbone", "factor"), [("bninception", 31.875), ("inceptionv3", 0.25)])
def test_a_scaled_first_kernel_is_a_scaled_input(backbone: Any, factor: float) -> None:
    """Our flow, pixels / 5, through the scaled kernel; TSN's codes of the same pixels through the unscaled one."""
    torch.manual_seed(0)
    state, kind = {k: v.double() for k, v in public(backbone).items()}, CLASSES[backbone]
    assert flow_scale(backbone, 5.0) == pytest.approx(factor, rel=1e-15)
    scaled, plain = (kind(10, stages=3).double().eval() for _ in range(2))
    report = load_backbone(scaled, state, scale=flow_scale(backbone, 5.0))
    assert f"first kernel times {factor:g}" in str(report)
    assert "times" not in str(load_backbone(plain, state))
    codes = torch.randint(0, 256, (2, 10, 96, 96)).double()
    means, stds = mean_std("flow", ClipConfig(flow_std=5.0), flow_bound_px=20.0)
    tsn = (codes - 127.5) / (1.0 if backbone == "bninception" else 127.5)
    ours = (codes - means[0]) / stds[0]
    with torch.no_grad():
        a, b = scaled(ours), plain(tsn)
    assert b.std() > 1e-2
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("norm", "std"), [("caffe", 1.0), ("inception", 127.5)])
@pytest.mark.parametrize("modality", ["diff", "diff-online"])
def test_differences_are_on_the_scale_of_pictures(modality: str, norm: Any, std: float) -> None:
    """As in TSN: differences of normalised frames. So they need no factor."""
    assert mean_std(modality, ClipConfig(norm=norm), 20.0)[1] == [std] * 3


def config(
    norm: Literal["train", "partial", "frozen"], path: str, modalities: Any, freeze: bool = False, flow_std: float = 5.0
) -> TrainConfig:
    model = CRNConfig(
        hidden=4,
        adapted=4,
        num_steps=2,
        stack=2,
        backbone_stages=3,
        modalities=modalities,
        pretrained=path,
        backbone_norm=norm,
    )
    clip = ClipConfig(num_frames=2, stack=2, crop=32, norm="caffe", flow_std=flow_std)
    return TrainConfig(model=model, clip=clip, data=DataConfig(batch_size=4), run=RunConfig(freeze_batchnorm=freeze))


@pytest.mark.parametrize(
    ("norm", "freeze", "flow_std", "factor"),
    [
        ("train", False, 5.0, 1.0),
        ("partial", False, 5.0, 1.0),
        ("frozen", False, 5.0, 31.875),
        ("frozen", False, 2.0, 12.75),
        ("train", True, 5.0, 31.875),
    ],
)
def test_runs_scale_flow_alone_and_only_where_nothing_adapts(
    norm: Any, freeze: bool, flow_std: float, factor: float, state: State, tmp_path: Any
) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(saved(state))
    first = state["conv1_7x7_s2.weight"]
    mean = first.mean(1, keepdim=True)
    for modalities in (("rgb", "flow"), ("diff", "flow"), ("rgb", "diff-online")):
        found, start = find_start(config(norm, str(file), modalities, freeze, flow_std), ["a", "b"])
        model = first_model(found, 2, start)
        assert isinstance(model, CRN)
        for m in modalities:
            kernel = model.backbone(m).state_dict()["conv1_7x7_s2.weight"]
            expected = first if m == "rgb" else (mean * (factor if m == "flow" else 1.0)).expand_as(kernel)
            torch.testing.assert_close(kernel, expected)
            assert torch.equal(model.backbone(m).state_dict()["conv1_7x7_s2.bias"], state["conv1_7x7_s2.bias"])


def test_frozen_weights_without_the_scale_of_flow_are_refused(state: State) -> None:
    model = config("frozen", "w.pth", ("rgb", "flow")).model
    with pytest.raises(ConfigError, match=r"frozen_flow_std = 0\.0: .*pass clip\.flow_std"):
        build_model(model, num_classes=2, crop=32, weights=state)
    build_model(config("frozen", "w.pth", ("rgb", "diff")).model, num_classes=2, crop=32, weights=state)
