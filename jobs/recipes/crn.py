"""Every row of the CRN paper's Tables 1 to 6 (Sun et al.) that its authors trained, as a named recipe with the printed
numbers.

Names: crn_tTABLE_DATA_BACKBONE_VARIANT_MOTION, with DATA ucf | hmdb | mit, BACKBONE bni (BN-Inception) | v3 (Inception
v3), and MOTION flow | diff, the modality paired with RGB. Rows that average trained networks (CRN + N-CRN) are
ensembles.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

from jobs.recipes.registry import Ensemble, Family, PrintedNumber, Recipe, recipe, register, register_ensemble
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import BackboneName, CRNConfig, Modality
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig

FAMILY = Family(
    source="Sun et al., Coupled Recurrent Network, section 5.1",
    stated=(
        "two ConvLSTM layers per branch, 3x3, 512 maps; RAB is one 1x1 convolution; T = 10 sequential frames",
        "SGD, momentum 0.9, weight decay 5e-4; initial learning rate 1e-2, backbones 1e-3, end to end",
        "strategy c: the last step and one random earlier step are supervised (compared in Table 2)",
        "test: mean probabilities of 4 regularly spaced clips; the two branches (S-Net, T-Net) are reported separately",
    ),
    choices=(
        (
            "frames: stride 1 ('ten sequential frames'); every motion step stacks 5 frames, 10 (flow) or 15 (diff)"
            " channels, as in TSN, whose baselines the tables quote"
        ),
        "batch of 32 clips: 8 ranks of 4; on fewer GPUs set data.micro-batch for the same mathematics",
        (
            "60 epochs on UCF-101 (18 k steps, as long as TSN's flow nets) and HMDB-51, 10 on Moments in Time (a"
            " quarter of a million steps)"
        ),
        "decay: half a cosine down to 1 %; the paper only says 'initial learning rate'",
        "dropout 0.5 before the classifiers: small data sets, large heads; TSN uses 0.2 (BN-Inception) to 0.8",
        "gradient norm clipped at 20, as in TSN; recurrent networks need a limit",
        "crops: TSN's corner crops of 1, 7/8, 3/4 and 0.66 of the short side, and flips; centre crop for testing",
        (
            "input 224 (short side 256) in Caffe's BGR for BN-Inception, 299 (short side 341) with mean and std 0.5 for"
            " Inception v3, as their public weights were trained"
        ),
        "optical flow: TV-L1 clipped to +-20 pixels, as stored; divided by 5, so that typical motion is about 1",
        (
            "batch normalisation: TSN's partial BN, only the first layer of each backbone is trained; this needs the"
            " public weights (--model.pretrained FILE): without them use --model.backbone-norm train"
        ),
    ),
)
DATA = {"ucf": "UCF-101", "hmdb": "HMDB-51", "mit": "Moments in Time, 339 classes"}


class PaperBackbone(NamedTuple):
    """A backbone, and the input that its public weights were trained with."""

    field: BackboneName
    """Value of model.backbone."""
    title: str
    crop: int
    resize: int
    norm: Literal["caffe", "inception"]


BACKBONES = {
    "bni": PaperBackbone("bninception", "BN-Inception", 224, 256, "caffe"),
    "v3": PaperBackbone("inceptionv3", "Inception v3", 299, 341, "inception"),
}
EPOCHS = {"ucf": 60, "hmdb": 60, "mit": 10}
MOTION = {"flow": "flow", "diff": "RGB difference", "diff-online": "RGB difference computed from the decoded frames"}
RIBS = {"none": "without RIB", "srib": "sRIB", "rib": "RIB"}


def paper_crn(data: str, backbone: str, modalities: tuple[Modality, ...], **model: Any) -> TrainConfig:
    """The paper's training, on 8 ranks with a GPU each.

    Args:
        data: ucf, hmdb or mit; it determines only the number of epochs.
        backbone: bni or v3.
        modalities: of the branches.
        model: fields of CRNConfig that differ from those of the paper's CRN.
    """
    inputs = BACKBONES[backbone]
    stack = 1 if modalities == ("rgb",) else 5
    return TrainConfig(
        model=CRNConfig(
            backbone=inputs.field,
            modalities=modalities,
            stack=stack,
            **{"dropout": 0.5, "backbone_norm": "partial", **model},
        ),
        clip=ClipConfig(
            num_frames=10,
            stack=stack,
            crop=inputs.crop,
            resize=inputs.resize,
            norm=inputs.norm,
            train_crop="corners",
        ),
        data=DataConfig(batch_size=32),
        optim=OptimConfig(
            name="sgd",
            lr=1e-2,
            backbone_lr=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            clip_norm=20,
            epochs=EPOCHS[data],
            schedule="cosine",
        ),
        run=RunConfig(num_workers=8, cpus_per_worker=8, use_gpu="yes"),
    )


def _add(
    name: str,
    row: str,
    what: str,
    split: str,
    data: str,
    backbone: str,
    modalities: tuple[Modality, ...],
    printed: tuple[PrintedNumber, ...],
    notes: tuple[str, ...] = (),
    **model: Any,
) -> None:
    where = DATA[data] + (f", {split}" if split else "")
    inputs = " + ".join("RGB" if m == "rgb" else MOTION[m] for m in modalities)
    register(
        Recipe(
            name,
            f"{what}, {BACKBONES[backbone].title}, {inputs}, on {where} (Table {row}).",
            functools.partial(paper_crn, data, backbone, modalities, **model),
            data=where,
            row=f"CRN Table {row}",
            printed=printed,
            family=FAMILY,
            start=(
                f"public ImageNet weights of {BACKBONES[backbone].title} (motion: its first convolution averaged over"
                " colours): --model.pretrained FILE"
            ),
            option="model.pretrained",
            notes=notes,
        )
    )


def _pair(first: float, second: float) -> tuple[PrintedNumber, ...]:
    return PrintedNumber("S-Net", first), PrintedNumber("T-Net", second)


# Data and backbone -> RIB -> S-Net, T-Net with flow; S-Net, T-Net with differences.
TABLE1: dict[tuple[str, str], dict[str, tuple[float, float, float, float]]] = {
    ("ucf", "bni"): {
        "none": (88.3, 90.6, 86.7, 87.9),
        "srib": (90.4, 92.3, 88.7, 89.3),
        "rib": (91.4, 93.0, 89.5, 90.7),
    },
    ("ucf", "v3"): {
        "none": (91.0, 92.3, 88.9, 90.2),
        "srib": (91.8, 92.9, 90.4, 90.8),
        "rib": (93.0, 93.5, 91.2, 91.6),
    },
    ("hmdb", "bni"): {
        "none": (54.7, 61.8, 52.7, 54.9),
        "srib": (58.6, 63.5, 55.4, 57.6),
        "rib": (60.3, 67.5, 55.9, 59.0),
    },
    ("hmdb", "v3"): {
        "none": (61.5, 64.1, 57.1, 58.2),
        "srib": (63.1, 65.8, 59.0, 59.9),
        "rib": (64.4, 67.7, 60.9, 60.9),
    },
}
# Strategy -> S-Nets, T-Nets (flow), T-Nets (differences).
TABLE2 = {"a": (55.5, 62.2, 56.4), "b": (47.3, 57.2, 49.7), "c": (58.1, 67.5, 59.0), "d": (56.9, 66.9, 58.6)}
# Data and backbone -> N-CRN, CRN, CRN + N-CRN, each as S-Nets, T-Nets (flow), T-Nets (differences).
TABLE3 = {
    ("ucf", "bni"): ((84.7, 85.6, 86.2), (90.4, 91.8, 89.5), (91.0, 92.2, 89.7)),
    ("hmdb", "bni"): ((51.4, 56.9, 53.2), (58.1, 67.5, 59.0), (59.0, 68.3, 60.7)),
    ("hmdb", "v3"): ((52.4, 57.9, 54.9), (62.7, 67.7, 60.9), (63.2, 69.2, 61.9)),
}
# Data and backbone -> late, early, N-CRN, CRN, CRN + N-CRN: means of three splits.
TABLE4 = {
    ("ucf", "bni"): (92.4, 92.7, 92.2, 93.5, 94.6),
    ("hmdb", "bni"): (66.5, 66.3, 65.7, 67.8, 69.4),
    ("ucf", "v3"): (92.5, 92.7, 93.1, 94.1, 94.9),
    ("hmdb", "v3"): (67.5, 67.1, 66.3, 68.2, 70.6),
}
MEAN_OF_PAIRS = "the printed S-Net is the mean of this training and the one with the other motion modality"
SPLIT1 = "split 1: the paper does not say so for Table 1, but Table 3, for which it does, has the same numbers"
N_CRN = (
    "N-CRN: RAB takes the branch's own hidden state of the previous step, without RIB ('concatenate the previous hidden"
    " output of itself independently')"
)


def _table_1() -> None:
    for (data, backbone), ribs in TABLE1.items():
        for number, (rib, values) in enumerate(ribs.items(), start=1 if backbone == "bni" else 4):
            for motion, printed in (("flow", values[:2]), ("diff", values[2:])):
                name = f"crn_t1_{data}_{backbone}_{rib}_{motion}"
                _add(
                    name,
                    f"1, row {number}",
                    f"CRN {RIBS[rib]}",
                    "split 1",
                    data,
                    backbone,
                    ("rgb", motion),
                    _pair(*printed),
                    (SPLIT1,),
                    rib=rib,
                )


def _table_2() -> None:
    for strategy, (spatial, flow, diff) in TABLE2.items():
        for motion, temporal in (("flow", flow), ("diff", diff)):
            name, what = f"crn_t2_hmdb_bni_{strategy}_{motion}", f"CRN RIB supervised by strategy {strategy}"
            notes = (MEAN_OF_PAIRS, "with RIB: row c has the numbers of Table 1's RIB rows")
            _add(
                name,
                f"2, row {strategy}",
                what,
                "split 1",
                "hmdb",
                "bni",
                ("rgb", motion),
                _pair(spatial, temporal),
                notes,
                strategy=strategy,
            )


def _table_3() -> None:
    for (data, backbone), (own, coupled, both) in TABLE3.items():
        stem = f"crn_t3_{data}_{backbone}"
        for modality, value in zip(("rgb", "flow", "diff"), own, strict=True):
            net = "S-Net" if modality == "rgb" else "T-Net"
            _add(
                f"{stem}_ncrn_{modality}",
                "3, N-CRN",
                "N-CRN",
                "split 1",
                data,
                backbone,
                (modality,),
                (PrintedNumber(net, value),),
                (N_CRN,),
                partner="self",
                rib="none",
            )
        notes = [MEAN_OF_PAIRS, f"the same training as crn_t1_{data}_{backbone}_rib_flow and _diff"]
        if (data, backbone) == ("ucf", "bni"):
            notes.append(
                "Table 1 prints T-Nets 1.2 higher (93.0 and 90.7) for the same training; the paper does not say why"
            )
        for motion, temporal in (("flow", coupled[1]), ("diff", coupled[2])):
            _add(
                f"{stem}_crn_{motion}",
                "3, CRN",
                "CRN RIB",
                "split 1",
                data,
                backbone,
                ("rgb", motion),
                _pair(coupled[0], temporal),
                tuple(notes),
            )
        for branch, value in zip(("rgb", "flow", "diff"), both, strict=True):
            partners = ("flow", "diff") if branch == "rgb" else (branch,)
            members = (*((f"{stem}_crn_{motion}", branch) for motion in partners), (f"{stem}_ncrn_{branch}", branch))
            summary = (
                f"CRN + N-CRN, {'S' if branch == 'rgb' else 'T'}-Nets, {BACKBONES[backbone].title}, on {DATA[data]},"
                " split 1 (Table 3)."
            )
            net = "S-Net" if branch == "rgb" else "T-Net"
            notes_of = (
                ("each CRN averaged with the N-CRN; the printed number is the mean of the two",)
                if branch == "rgb"
                else ()
            )
            register_ensemble(
                Ensemble(
                    f"{stem}_ens_{branch}",
                    summary,
                    f"{DATA[data]}, split 1",
                    "CRN Table 3, CRN + N-CRN",
                    (PrintedNumber(net, value),),
                    members,
                    notes_of,
                )
            )


def _table_4() -> None:
    variants: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
        "late": ("late fusion of two uncoupled branches", {"partner": "off", "rib": "none", "fusion": "late"}, ()),
        "early": (
            "early fusion before one recurrent network",
            {"partner": "off", "rib": "none", "fusion": "early"},
            (),
        ),
        "ncrn": (
            "N-CRN",
            {"partner": "self", "rib": "none"},
            (N_CRN, "both streams in one run without a connection between them: two independent trainings"),
        ),
        "crn": ("CRN RIB", {}, ()),
    }
    shared = (
        "RGB + flow, branches averaged: our reading; the table does not name the inputs",
        "one run for each of the three splits; the printed number is their mean",
    )
    for (data, backbone), values in TABLE4.items():
        stem, split = f"crn_t4_{data}_{backbone}", "splits 1-3"
        for (variant, (what, model, notes)), value in zip(variants.items(), values, strict=False):
            _add(
                f"{stem}_{variant}",
                f"4, {variant}",
                what,
                split,
                data,
                backbone,
                ("rgb", "flow"),
                (PrintedNumber("S+T", value),),
                notes + shared,
                **model,
            )
        summary = f"CRN + N-CRN, all four networks, {BACKBONES[backbone].title}, on {DATA[data]}, splits 1-3 (Table 4)."
        members = ((f"{stem}_crn", "all"), (f"{stem}_ncrn", "all"))
        register_ensemble(
            Ensemble(
                f"{stem}_ens",
                summary,
                f"{DATA[data]}, {split}",
                "CRN Table 4, CRN + N-CRN",
                (PrintedNumber("S+T", values[4]),),
                members,
            )
        )


def _table_5() -> None:
    v3 = ("Inception v3 with RIB, which the paper uses 'Without specific notation'",)
    spatial = (PrintedNumber("S-Net", 27.32), PrintedNumber("S-Net top-5", 50.01))
    for motion, printed in (
        ("flow", (PrintedNumber("T-Net", 26.13), PrintedNumber("T-Net top-5", 47.36))),
        ("diff", (PrintedNumber("T-Net", 27.11), PrintedNumber("T-Net top-5", 49.35))),
    ):
        notes = (*v3, "the paper does not say which pairing the printed S-Net comes from")
        _add(
            f"crn_t5_mit_v3_crn_{motion}",
            f"5, CRN-Spatial, CRN-{'Flow' if motion == 'flow' else 'RGBDiff'}",
            "CRN RIB",
            "",
            "mit",
            "v3",
            ("rgb", motion),
            spatial + printed,
            notes,
        )
        _add(
            f"crn_t5_mit_v3_ncrn_{motion}",
            "5, for CRN + N-CRN",
            "N-CRN",
            "",
            "mit",
            "v3",
            ("rgb", motion),
            (),
            (*v3, N_CRN),
            partner="self",
            rib="none",
        )
    members = tuple(
        (f"crn_t5_mit_v3_{kind}_{motion}", "all") for kind in ("crn", "ncrn") for motion in ("flow", "diff")
    )
    both = (PrintedNumber("S+T", 35.87), PrintedNumber("S+T top-5", 64.05))
    notes = ("all networks of both pairings: our reading of 'CRN + N-CRN' and 'Spatial+Temporal'",)
    register_ensemble(
        Ensemble(
            "crn_t5_mit_v3_ens",
            "CRN + N-CRN, Inception v3, on Moments in Time (Table 5).",
            DATA["mit"],
            "CRN Table 5, CRN + N-CRN",
            both,
            members,
            notes,
        )
    )


def _table_6() -> None:
    printed = (
        PrintedNumber("S+T split 1", 92.2),
        PrintedNumber("S+T mean of splits", 93.0),
        PrintedNumber("speed", 200, "frames/s on a GTX 1080"),
    )
    notes = (
        (
            "the backbone is not named: Inception v3 by the paper's rule, but BN-Inception fits the speed better (9.1 G"
            " multiply-adds per frame instead of 17.5 G)"
        ),
        "differences are computed from the decoded frames, as in a real-time system; one run for each split",
    )
    for backbone in BACKBONES:
        _add(
            f"crn_t6_ucf_{backbone}_realtime",
            "6, ours",
            "CRN RIB in real time",
            "splits 1-3",
            "ucf",
            backbone,
            ("rgb", "diff-online"),
            printed,
            notes,
        )


for _table in (_table_1, _table_2, _table_3, _table_4, _table_5, _table_6):
    _table()


@recipe(data="UCF-101 or any")
def crn_bninception() -> TrainConfig:
    """CRN as in the paper: BN-Inception at 224, f = 512, T = 10, RIB, strategy c, RGB + stacks of 5 flows; 8 ranks."""
    return paper_crn("ucf", "bni", ("rgb", "flow"), backbone_norm="train")  # must also work from random weights


@recipe(data="UCF-101 or any")
def n_crn_bninception() -> TrainConfig:
    """N-CRN, the paper's uncoupled baseline: each branch receives its own hidden state."""
    return paper_crn("ucf", "bni", ("rgb", "flow"), partner="self", rib="none", backbone_norm="train")
