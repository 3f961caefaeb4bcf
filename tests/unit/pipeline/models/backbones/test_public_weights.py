"""Public ImageNet weights: state dicts of the published names and shapes load, others name what is wrong with them."""

import dataclasses
import io
import pickle
import random
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipeline.config.data import ClipConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.backbones.bninception import BNInception
from pipeline.models.backbones.inception_v3 import InceptionV3
from pipeline.models.backbones.public_weights import load_backbone, parse_weights
from pipeline.models.crn.model import CRN

Shapes = dict[str, tuple[int, ...]]


def norm_shapes(name: str, channels: int) -> Shapes:
    return {f"{name}.{k}": (channels,) for k in ("weight", "bias", "running_mean", "running_var")}


def bninception_shapes() -> Shapes:
    """The public Caffe port, from its table: every convolution with a bias, its BN under the name + _bn."""
    shapes: Shapes = {}

    def conv(name: str, cin: int, cout: int, k: int) -> int:
        shapes.update({f"{name}.weight": (cout, cin, k, k), f"{name}.bias": (cout,)})
        shapes.update(norm_shapes(f"{name}_bn", cout))
        return cout

    conv("conv1_7x7_s2", 3, 64, 7)
    conv("conv2_3x3_reduce", 64, 64, 1)
    conv("conv2_3x3", 64, 192, 3)
    table = {
        "3a": (192, 64, 64, 64, 64, 96, 32),
        "3b": (256, 64, 64, 96, 64, 96, 64),
        "3c": (320, 0, 128, 160, 64, 96, 0),
        "4a": (576, 224, 64, 96, 96, 128, 128),
        "4b": (576, 192, 96, 128, 96, 128, 128),
        "4c": (576, 160, 128, 160, 128, 160, 128),
        "4d": (608, 96, 128, 192, 160, 192, 128),
        "4e": (608, 0, 128, 192, 192, 256, 0),
        "5a": (1056, 352, 192, 320, 160, 224, 128),
        "5b": (1024, 352, 192, 320, 192, 224, 128),
    }
    for block, (cin, one, reduce, three, double_reduce, double, pool) in table.items():
        n = f"inception_{block}_"
        if one:
            conv(n + "1x1", cin, one, 1)
        conv(n + "3x3", conv(n + "3x3_reduce", cin, reduce, 1), three, 3)
        conv(
            n + "double_3x3_2",
            conv(n + "double_3x3_1", conv(n + "double_3x3_reduce", cin, double_reduce, 1), double, 3),
            double,
            3,
        )
        if pool:
            conv(n + "pool_proj", cin, pool, 1)
    return {**shapes, "last_linear.weight": (1000, 1024), "last_linear.bias": (1000,)}


def inception_v3_shapes() -> Shapes:
    """torchvision's Inception v3 with its auxiliary head: 27,161,264 parameters."""
    shapes: Shapes = {}

    def conv(name: str, cin: int, cout: int, h: int, w: int) -> None:
        shapes[f"{name}.conv.weight"] = (cout, cin, h, w)
        shapes.update(norm_shapes(f"{name}.bn", cout))

    for name, cin, cout, k in (
        ("1a_3x3", 3, 32, 3),
        ("2a_3x3", 32, 32, 3),
        ("2b_3x3", 32, 64, 3),
        ("3b_1x1", 64, 80, 1),
        ("4a_3x3", 80, 192, 3),
    ):
        conv(f"Conv2d_{name}", cin, cout, k, k)
    for name, cin, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        n = f"Mixed_{name}.branch"
        conv(n + "1x1", cin, 64, 1, 1)
        conv(n + "5x5_1", cin, 48, 1, 1)
        conv(n + "5x5_2", 48, 64, 5, 5)
        conv(n + "3x3dbl_1", cin, 64, 1, 1)
        conv(n + "3x3dbl_2", 64, 96, 3, 3)
        conv(n + "3x3dbl_3", 96, 96, 3, 3)
        conv(n + "_pool", cin, pool, 1, 1)
    n = "Mixed_6a.branch"
    conv(n + "3x3", 288, 384, 3, 3)
    conv(n + "3x3dbl_1", 288, 64, 1, 1)
    conv(n + "3x3dbl_2", 64, 96, 3, 3)
    conv(n + "3x3dbl_3", 96, 96, 3, 3)
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        n = f"Mixed_{name}.branch"
        conv(n + "1x1", 768, 192, 1, 1)
        conv(n + "7x7_1", 768, c, 1, 1)
        conv(n + "7x7_2", c, c, 1, 7)
        conv(n + "7x7_3", c, 192, 7, 1)
        conv(n + "7x7dbl_1", 768, c, 1, 1)
        conv(n + "7x7dbl_2", c, c, 7, 1)
        conv(n + "7x7dbl_3", c, c, 1, 7)
        conv(n + "7x7dbl_4", c, c, 7, 1)
        conv(n + "7x7dbl_5", c, 192, 1, 7)
        conv(n + "_pool", 768, 192, 1, 1)
    conv("AuxLogits.conv0", 768, 128, 1, 1)
    conv("AuxLogits.conv1", 128, 768, 5, 5)
    shapes.update({"AuxLogits.fc.weight": (1000, 768), "AuxLogits.fc.bias": (1000,)})
    n = "Mixed_7a.branch"
    conv(n + "3x3_1", 768, 192, 1, 1)
    conv(n + "3x3_2", 192, 320, 3, 3)
    conv(n + "7x7x3_1", 768, 192, 1, 1)
    conv(n + "7x7x3_2", 192, 192, 1, 7)
    conv(n + "7x7x3_3", 192, 192, 7, 1)
    conv(n + "7x7x3_4", 192, 192, 3, 3)
    for name, cin in (("7b", 1280), ("7c", 2048)):
        n = f"Mixed_{name}.branch"
        conv(n + "1x1", cin, 320, 1, 1)
        conv(n + "3x3_1", cin, 384, 1, 1)
        conv(n + "3x3_2a", 384, 384, 1, 3)
        conv(n + "3x3_2b", 384, 384, 3, 1)
        conv(n + "3x3dbl_1", cin, 448, 1, 1)
        conv(n + "3x3dbl_2", 448, 384, 3, 3)
        conv(n + "3x3dbl_3a", 384, 384, 1, 3)
        conv(n + "3x3dbl_3b", 384, 384, 3, 1)
        conv(n + "_pool", cin, 192, 1, 1)
    return {**shapes, "fc.weight": (1000, 2048), "fc.bias": (1000,)}


def weights(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def test_the_lists_of_this_test_are_the_published_ones() -> None:
    for shapes, parameters in ((bninception_shapes(), 11_295_240), (inception_v3_shapes(), 27_161_264)):
        assert sum(product(s) for name, s in shapes.items() if "running" not in name) == parameters


@pytest.mark.parametrize(
    ("kind", "shapes", "heads"),
    [
        (BNInception, bninception_shapes(), ("last_linear.",)),
        (InceptionV3, inception_v3_shapes(), ("AuxLogits.", "fc.")),
    ],
)
@pytest.mark.slow
def test_published_weights_load_strictly(
    kind: type[BNInception] | type[InceptionV3], shapes: Shapes, heads: tuple[str, ...]
) -> None:
    state = weights(shapes)
    net = kind()
    report = load_backbone(net, state, source="public.pth")
    own = net.state_dict()
    features = {name for name in shapes if not name.startswith(heads)}
    assert {name for name in own if "num_batches" not in name} == features == set(report.loaded)
    assert set(report.left_out) == set(shapes) - features
    assert not report.averaged
    assert all(torch.equal(own[name], state[name]) for name in features)
    assert all(part.rstrip(".") in str(report) for part in heads)
    # Momentum and epsilon are no weights. 0.9, which the BN-Inception port carries over from Caffe, must not come back.
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {layer.momentum for layer in norms} == {0.1}
    assert {layer.eps for layer in norms} == {1e-5 if kind is BNInception else 1e-3}


def test_older_files_and_fewer_stages() -> None:
    """BN vectors as (1, C), a classifier of the TSN code, and blocks that the backbone does not have."""
    state = {
        name: value[None] if "_bn." in name else value
        for name, value in weights(bninception_shapes()).items()
        if "last_linear" not in name
    }
    state["fc_action.weight"] = torch.zeros(400, 1024)
    net = BNInception(stages=3)
    report = load_backbone(net, state)
    assert torch.equal(net.state_dict()["inception_3c_3x3_bn.running_var"], state["inception_3c_3x3_bn.running_var"][0])
    assert "inception_4a_1x1.weight" in report.left_out
    assert "fc_action.weight" in report.left_out


@pytest.mark.parametrize(
    ("kind", "shapes", "first"),
    [
        (BNInception, bninception_shapes(), "conv1_7x7_s2.weight"),
        (InceptionV3, inception_v3_shapes(), "Conv2d_1a_3x3.conv.weight"),
    ],
)
@pytest.mark.slow
def test_first_kernel_of_a_motion_branch_is_the_mean_over_rgb(
    kind: type[BNInception] | type[InceptionV3], shapes: Shapes, first: str
) -> None:
    state = weights(shapes)
    mean = state[first].sum(1) / 3
    for channels, cross_modality in ((10, None), (15, None), (2, True), (3, True)):
        net = kind(channels, stages=3)
        assert load_backbone(net, state, cross_modality=cross_modality).averaged
        kernel = net.state_dict()[first]
        assert kernel.shape[1] == channels
        for channel in range(channels):
            torch.testing.assert_close(kernel[:, channel], mean)


@pytest.mark.parametrize(
    ("kind", "shapes", "name"),
    [
        (BNInception, bninception_shapes(), "inception_4c_double_3x3_2"),
        (InceptionV3, inception_v3_shapes(), "Mixed_6c.branch7x7_2.conv"),
    ],
)
@pytest.mark.slow
def test_wrong_files_name_the_tensor(kind: type[BNInception] | type[InceptionV3], shapes: Shapes, name: str) -> None:
    good = weights(shapes)
    key, net = f"{name}.weight", kind()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    wanted = str(shapes[key]).replace("(", r"\(").replace(")", r"\)")

    def refused(state: dict[str, Tensor], match: str) -> None:
        with pytest.raises(ConfigError, match=rf"model.pretrained = 'x.pth': {match}") as caught:
            load_backbone(net, state, source="x.pth")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

    refused({k: v for k, v in good.items() if k != key}, rf"{key} is missing, expected shape {wanted}")
    refused({**good, key: good[key][:, :-1]}, rf"{key} has shape .*, expected {wanted}")
    refused({**good, "layer1.0.conv1.weight": torch.zeros(1)}, "layer1.0.conv1.weight is unknown")
    refused({**good, key: good[key] * float("nan")}, f"{key} contains a value that is not finite")
    other = weights(inception_v3_shapes() if kind is BNInception else bninception_shapes())
    theirs, ours = next(iter(other)), next(iter(good))
    refused(other, rf"none of its \d+ tensors, such as {theirs}, has a name of that network, such as {ours}; give")
    refused({**other, ours: good[ours]}, f"{theirs} is unknown")
    with pytest.raises(ConfigError, match=r"has shape \(.*\), the backbone has .*width 1"):
        load_backbone(kind(width=0.5), good)


def saved(content: object, **options: bool) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def test_the_bytes_say_what_they_are() -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    legacy = saved(state, _use_new_zipfile_serialization=False)  # what public files of 2017 are
    for data in (safetensors.torch.save(state), saved(state), legacy, saved({"state_dict": state, "epoch": 3})):
        read = parse_weights(data, "x")
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], state[k]) for k in state)
    good = safetensors.torch.save(state)
    objects = (
        saved({"a": torch.ones(1), "epoch": 3}),
        saved([1, 2]),
        saved({1: torch.ones(1)}),
        saved(Path("x")),
    )  # the last: code could run
    for data in (b"", b"junk", good[:-5], good[:12], saved(state)[:200], legacy[:300], *objects):
        with pytest.raises(ConfigError, match=r"start_from = 's3://b/x': give (an intact|a file)"):
            parse_weights(data, "s3://b/x", "start_from")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_any_damage_is_one_clear_error() -> None:
    """Junk makes parsers raise what they like; here it is a ConfigError or, where the damage hits values alone, a
    state dict.
    """
    rng = random.Random(0)
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    outcomes = {"read": 0, "refused": 0}
    for base in (safetensors.torch.save(state), saved(state), saved(state, _use_new_zipfile_serialization=False)):
        for _ in range(150):
            data = bytearray(base)
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(min(len(data), 900))] = rng.randrange(256)
            try:
                outcomes["read"] += len(parse_weights(bytes(data), "x")) >= 0
            except ConfigError as error:
                outcomes["refused"] += "\n" not in str(error)
    assert sum(outcomes.values()) == 450
    assert min(outcomes.values()) > 50


def test_build_model_loads_into_both_branches_when_asked() -> None:
    state = weights(bninception_shapes())
    config = CRNConfig(
        hidden=4, adapted=4, num_steps=2, backbone_stages=3, modalities=("rgb", "diff"), pretrained="bn.safetensors"
    )
    torch.manual_seed(0)
    fresh = build_model(config, num_classes=3, crop=32)
    model = build_model(config, num_classes=3, crop=32, weights=state)
    assert isinstance(model, CRN)
    assert isinstance(fresh, CRN)
    key = "inception_3a_1x1.weight"
    for m in ("rgb", "diff"):
        assert torch.equal(model.backbone(m).state_dict()[key], state[key])
        assert not torch.equal(fresh.backbone(m).state_dict()[key], state[key])
    first = state["conv1_7x7_s2.weight"]
    assert torch.equal(model.backbone("rgb").state_dict()["conv1_7x7_s2.weight"], first)
    # A difference has three channels too, and is no picture: averaged all the same.
    torch.testing.assert_close(
        model.backbone("diff").state_dict()["conv1_7x7_s2.weight"], first.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    )


@pytest.mark.slow
def test_the_meta_device_checks_and_copies_nothing() -> None:
    state = weights(bninception_shapes())
    config = CRNConfig(hidden=4, adapted=4, num_steps=2, modalities=("rgb", "diff"), pretrained="bn.pth")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of every copy that goes nowhere
        model = build_model(config, num_classes=3, crop=224, weights=state)
        assert all(p.is_meta for p in model.parameters())
        with pytest.raises(ConfigError, match=r"bn.pth': conv1_7x7_s2.bias is missing"):
            build_model(
                config, num_classes=3, crop=224, weights={k: v for k, v in state.items() if k != "conv1_7x7_s2.bias"}
            )
    with pytest.raises(ConfigError, match="give the file that the weights come from"):
        build_model(CRNConfig(hidden=4), num_classes=3, crop=224, weights=state)


def test_a_run_names_its_weights_and_their_input() -> None:
    for backbone, norm in (("bninception", "caffe"), ("inceptionv3", "inception")):
        model = CRNConfig(backbone=backbone, pretrained="w.pth")  # pyright: ignore[reportArgumentType]
        config = TrainConfig(model=model, clip=ClipConfig(num_frames=10, norm=norm))
        assert config.identity()["model"]["pretrained"] == "w.pth"
        assert dataclasses.replace(config, start_digest="ab").identity()["model"]["pretrained"] == "sha256:ab"
        with pytest.raises(ConfigError, match=f"clip.norm = 'imagenet': .*use {norm}"):
            TrainConfig(model=model, clip=ClipConfig(num_frames=10, norm="imagenet"))
    with pytest.raises(ConfigError, match=r"model.pretrained = .w.pth.: .*width 1"):
        CRNConfig(pretrained="w.pth", width=0.5)
