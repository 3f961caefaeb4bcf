"""Recipes of the papers' tables: all are there, they say what the papers say, and ``--list`` tells it."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

from jobs.recipes import ENSEMBLES, RECIPES, Ensemble, PrintedNumber, default_views, find_recipe, recipe
from jobs.recipes.listing import describe_model, differences, show_recipes
from jobs.recipes.registry import register_ensemble
from jobs.train import command as train_job
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.models import build_model
from pipeline.models.interface import count_parameters

# Read off the papers again, apart from the recipes' own tables.
PRINTED = {
    "crn_t1_ucf_bni_none_flow": {"S-Net": 88.3, "T-Net": 90.6},
    "crn_t1_ucf_bni_rib_diff": {"S-Net": 89.5, "T-Net": 90.7},
    "crn_t1_ucf_v3_rib_flow": {"S-Net": 93.0, "T-Net": 93.5},
    "crn_t1_hmdb_bni_srib_diff": {"S-Net": 55.4, "T-Net": 57.6},
    "crn_t1_hmdb_v3_srib_flow": {"S-Net": 63.1, "T-Net": 65.8},
    "crn_t2_hmdb_bni_b_diff": {"S-Net": 47.3, "T-Net": 49.7},
    "crn_t2_hmdb_bni_d_flow": {"S-Net": 56.9, "T-Net": 66.9},
    "crn_t3_ucf_bni_ncrn_diff": {"T-Net": 86.2},
    "crn_t3_hmdb_v3_ncrn_rgb": {"S-Net": 52.4},
    "crn_t3_hmdb_bni_crn_flow": {"S-Net": 58.1, "T-Net": 67.5},
    "crn_t3_ucf_bni_ens_flow": {"T-Net": 92.2},
    "crn_t4_ucf_v3_early": {"S+T": 92.7},
    "crn_t4_hmdb_bni_late": {"S+T": 66.5},
    "crn_t4_hmdb_v3_ens": {"S+T": 70.6},
    "crn_t5_mit_v3_crn_diff": {"S-Net": 27.32, "S-Net top-5": 50.01, "T-Net": 27.11, "T-Net top-5": 49.35},
    "crn_t5_mit_v3_ens": {"S+T": 35.87, "S+T top-5": 64.05},
    "crn_t6_ucf_bni_realtime": {"S+T split 1": 92.2, "S+T mean of splits": 93.0, "speed": 200},
    "mrst_t2_ucf_c3d": {"top-1": 85.3, "size": 321},
    "mrst_t2_hmdb_stf": {"top-1": 63.8, "size": 213},
    "mrst_t2_hmdb_t": {"top-1": 68.9, "size": 211},
    "mrst_t3_k400": {"top-1": 74.1, "parameters": 31.7, "FLOPs": 99.6},
    "mrst_t4_hmdb": {"top-1": 75.4},
}


def listed(wanted: str, width: int | None = None) -> str:
    """What --list prints: on a terminal of some width, or (None) in a pipe."""
    out = io.StringIO()
    show_recipes(
        Console(file=out, force_terminal=width is not None, width=width, highlight=False, color_system=None), wanted
    )
    return out.getvalue()


@pytest.mark.parametrize("name", PRINTED)
def test_every_recipe_carries_the_number_its_paper_prints(name: str) -> None:
    entry = RECIPES.get(name) or ENSEMBLES[name]
    assert {number.what: number.value for number in entry.printed} == PRINTED[name]


def test_every_row_is_there() -> None:
    rows = {
        table: [n for n in (*RECIPES, *ENSEMBLES) if n.startswith(table)]
        for table in ("crn_t1", "crn_t2", "crn_t3", "crn_t4", "crn_t5", "crn_t6", "mrst_t2", "mrst_t3", "mrst_t4")
    }
    # Table 1: 2 data sets x 2 backbones x 3 RIBs x 2 pairings. 3: 3 settings x (3 N-CRN + 2 CRN + 3 means). 4: 4
    # settings x (4 + a mean). 5: 2 pairings of CRN and N-CRN, a mean. MRST 2: 6 units on 2 data sets and in
    # pre-training.
    assert {table: len(names) for table, names in rows.items()} == {
        "crn_t1": 24,
        "crn_t2": 8,
        "crn_t3": 24,
        "crn_t4": 20,
        "crn_t5": 5,
        "crn_t6": 2,
        "mrst_t2": 18,
        "mrst_t3": 1,
        "mrst_t4": 2,
    }
    assert all(
        RECIPES[name].family and RECIPES[name].row for names in rows.values() for name in names if name in RECIPES
    )


@pytest.mark.parametrize("name", [name for name in RECIPES if re.match(r"crn_t\d", name)])
def test_crn_rows_hold_what_section_5_1_states(name: str) -> None:
    config = find_recipe(name)
    model, optim = config.model, config.optim
    assert isinstance(model, CRNConfig)
    assert (model.hidden, model.num_layers, model.kernel_size, model.num_steps, config.clip.num_frames) == (
        512,
        2,
        3,
        10,
        10,
    )
    assert (optim.name, optim.lr, optim.backbone_lr, optim.momentum, optim.weight_decay) == (
        "sgd",
        1e-2,
        1e-3,
        0.9,
        5e-4,
    )
    assert model.strategy == (name.split("_")[4] if "_t2_" in name else "c")
    assert (model.backbone, config.clip.crop, config.clip.norm) == (
        ("bninception", 224, "caffe") if "_bni_" in name else ("inceptionv3", 299, "inception")
    )
    assert model.partner == ("self" if "_ncrn" in name else "off" if name.endswith(("_late", "_early")) else "other")
    assert model.fusion == ("late" if name.endswith("_late") else "early" if name.endswith("_early") else "none")
    assert default_views(config) == 4


@pytest.mark.parametrize("name", [name for name in RECIPES if re.match(r"mrst_t\d", name)])
def test_mrst_rows_hold_what_section_4_1_states(name: str) -> None:
    config = find_recipe(name)
    model, optim = config.model, config.optim
    assert isinstance(model, MRSTConfig)
    assert (model.num_steps, config.clip.crop, config.clip.test_resize, config.clip.train_crop) == (
        16,
        224,
        256,
        "fixed",
    )
    fine_tuning = "_k400" not in name
    assert (optim.name, optim.lr, model.dropout, optim.weight_decay) == (
        ("sgd", 1e-5, 0.9, 5e-4) if fine_tuning else ("adam", 1e-4, 0.5, 5e-5)
    )
    assert (optim.momentum, optim.classifier_multiplier) == ((0.9, 100) if fine_tuning else (0.9, 1))
    assert model.layout == ("c3d" if "_t2_" in name else "resnet")
    assert default_views(config) == 20


def test_mrst_rows_quote_the_paper() -> None:
    """The sentences that decide optimiser and rates, read off the paper again."""
    text = listed("mrst_t4_hmdb")
    for sentence in (
        "We use the Adam Gradient Descent optimizer with an initial learning rate of 1e-4 to train the MRST-related"
        " networks from scratch. The drop out ratio and weight decay rate are set to 0.5 and 5e-5.",
        "We set the initial learning rate is 1e-5 and utilize the gradient descent optimizer with a momentum of 0.9 to"
        " train our MRST-related networks initialized with the ImageNet-1k and Kinetics-400 pre-trained model. We"
        " employ the higher drop out ratio of 0.9 and the weight decay rate of 5e-4 to prevent over-fitting.",
        "We also experiment with fine-tuning MRST-T-Net (pre-trained on ImageNet-1k and Kinetics-400) on UCF-101 and"
        " HMDB51 to evaluate the generality and robustness.",
    ):
        assert f'"{sentence}"' in text
    assert "--optim.classifier-multiplier 1 " in text
    assert "this reading is ours" in listed("mrst_t3_k400")


@pytest.mark.parametrize(
    ("name", "million"),
    [  # RIB, RAB, two ConvLSTM layers and classifier of two branches: 9 (R + f) 4 f + 4 f a layer, and so on, by hand
        ("crn_t1_ucf_bni_none_flow", 77.18),
        ("crn_t1_ucf_bni_srib_flow", 81.90),
        ("crn_t1_ucf_bni_rib_flow", 92.39),
        ("crn_t1_ucf_v3_none_flow", 78.23),
        ("crn_t1_ucf_v3_srib_flow", 82.95),
        ("crn_t1_ucf_v3_rib_flow", 93.44),
        ("crn_t4_ucf_bni_early", 38.9),
        ("crn_t4_ucf_v3_early", 39.9),
        ("crn_t4_ucf_bni_late", 77.1),
    ],
)
def test_parameters_of_the_crn_rows(name: str, million: float) -> None:
    config = find_recipe(name)
    with torch.device("meta"):
        model = build_model(config.model, num_classes=101, crop=config.clip.crop)
    behind = count_parameters(model) - sum(p.numel() for n, p in model.named_parameters() if ".backbone." in n)
    assert behind / 1e6 == pytest.approx(million, abs=0.06 if name.startswith("crn_t4") else 0.006)


@pytest.mark.parametrize(
    ("name", "classes", "million"),
    [
        ("mrst_t3_k400", 400, 36.753168),
        ("mrst_t2_ucf_std", 101, 208.84 / 4),
        ("mrst_t2_ucf_p", 101, 210.04 / 4),
        ("mrst_t2_ucf_c3d", 487, 79.991015),
    ],
)
def test_parameters_of_the_mrst_rows(name: str, classes: int, million: float) -> None:
    with torch.device("meta"):
        model = build_model(find_recipe(name).model, num_classes=classes, crop=224)
    assert count_parameters(model) / 1e6 == pytest.approx(million, rel=2e-3)


def test_list_in_a_pipe_has_a_line_for_each() -> None:
    lines = listed("crn_t1").splitlines()
    assert lines[0].split() == ["recipe", "model", "data", "set", "paper"]
    assert [line.split()[0] for line in lines[1:-1]] == sorted(name for name in RECIPES if name.startswith("crn_t1"))
    row = next(line for line in lines if line.startswith("crn_t1_hmdb_v3_none_diff"))
    assert all(
        words in row for words in ("no RIB, Inception v3, rgb+diff", "HMDB-51, split 1", "S-Net 57.1%, T-Net 58.2%")
    )
    assert lines[-1].startswith("24 recipes")


def test_list_on_a_narrow_terminal_keeps_names_whole() -> None:
    text = listed("crn_t1", width=80)
    assert all(name in text for name in RECIPES if name.startswith("crn_t1"))
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_list_of_one_tells_differences_and_choices() -> None:
    text = listed("crn_t2_hmdb_bni_d_flow")
    assert re.search(r"--model.strategy +d  \(default c\)", text)
    assert re.search(r"--clip.norm +caffe  \(default imagenet\)", text)
    assert "T-Net 66.9%" in text
    assert "batch of 32 clips" in text
    assert "--optim.lr" not in text  # the default already
    assert "BN-Inception" in text
    shown = dict(re.findall(r"^--([\w.-]+) +(\S+)  \(default", text, re.M))
    assert set(shown) == {field.replace("_", "-") for field, _, _ in differences(find_recipe("crn_t2_hmdb_bni_d_flow"))}


def test_an_ensemble_names_its_runs_and_is_not_trained() -> None:
    text = listed("crn_t4_ucf_bni_ens")
    assert "crn_t4_ucf_bni_crn, every branch" in text
    assert "S+T 94.6%" in text
    with pytest.raises(
        UserError, match="not a training but the mean of several: train crn_t4_ucf_bni_crn, crn_t4_ucf_bni_ncrn"
    ):
        find_recipe("crn_t4_ucf_bni_ens")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"no recipe's name contains 'crn_t9'"):
        train_job.main(["--list", "crn_t9"])
    with pytest.raises(UserError, match="one name or part of a name"):
        train_job.main(["--list", "crn", "mrst"])
    with pytest.raises(UserError, match=r"did you mean crn_t1_ucf_bni_rib_flow"):
        find_recipe("crn_t1_ucf_bni_rib_flwo")


def test_list_is_reached_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_job.main(["--list", "mrst_t4"]) == 0
    assert "mrst_t4_ucf" in capsys.readouterr().out


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="mrst_net is registered twice"):
        recipe(RECIPES["mrst_net"].build)
    with pytest.raises(ValueError, match="nowhere"):
        register_ensemble(Ensemble("x", "", "", "", (PrintedNumber("S-Net", 1.0),), (("nowhere", "rgb"),)))
    assert "x" not in ENSEMBLES


def test_models_are_told_apart() -> None:
    assert describe_model(find_recipe("crn_t3_ucf_bni_ncrn_rgb").model) == "N-CRN, BN-Inception, rgb, strategy c"
    assert describe_model(find_recipe("crn_t4_ucf_v3_late").model) == "late fusion, Inception v3, rgb+flow, strategy c"
    assert describe_model(find_recipe("mrst_t2_ucf_stf").model) == "STD with STF, C3D layout, rgb"
    assert describe_model(find_recipe("mrst_t4_ucf").model) == "MRST-T, 33 units, rgb"


def test_n_crn_with_rib_has_the_capacity_of_crn_and_the_coupling_of_n_crn() -> None:
    """Parameters behind the backbones: what a RIB adds is 27 f^2 weights, 3 f biases, and 2 f R in RAB, per branch."""
    crn, plain, own = (find_recipe(f"{name}bninception") for name in ("crn_", "n_crn_", "n_crn_rib_"))
    assert (own.model.partner, own.model.rib) == ("self", "rib")  # pyright: ignore[reportAttributeAccessIssue]
    counts = []
    for config in (crn, plain, own):
        with torch.device("meta"):
            model = build_model(config.model, num_classes=101, crop=224)
        counts.append(sum(p.numel() for p in model.parameter_groups()["head"]))
    assert counts == [92_390_602, 77_183_178, 92_390_602]
    assert counts[0] - counts[1] == 2 * (27 * 512**2 + 3 * 512 + 2 * 512 * 512)
    assert describe_model(own.model).startswith("N-CRN RIB, ")
    assert describe_model(plain.model).startswith("N-CRN, ")


def test_list_names_the_flags_of_tsn_s_habits_and_each_is_a_valid_run() -> None:
    """Every row of the CRN paper shows them with their reasons; the flags parse, and change what they say."""
    text = listed("crn_t1_ucf_bni_rib_flow")
    lines = [line.split("as TSN", 1)[1].strip() for line in text.splitlines() if line.strip().startswith("as TSN")]
    family = RECIPES["crn_t1_ucf_bni_rib_flow"].family
    assert family is not None
    assert lines == [f"{flags}  ({reason})" for _, flags, reason in family.options]
    flags = " ".join(flags for _, flags, _ in family.options).split()
    seen: list[TrainConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_job, "train", lambda config: seen.append(config) or 0)
        assert train_job.main(["crn_t1_ucf_bni_rib_flow", "--data.uri", "file:///set", *flags]) == 0
    optim = seen[0].optim
    assert (optim.first_conv_multiplier, optim.weight_decay_on) == (5.0, "weights")
    assert (optim.epochs, optim.schedule, optim.decay_epochs) == (340, "step", (190, 300))
    assert "as TSN" not in listed("mrst_t4_ucf")
