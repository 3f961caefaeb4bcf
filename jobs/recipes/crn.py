"""The training of the CRN paper (Sun et al.) as a function, and the recipes of CRN that are no row of its tables.

The rows are in ``crn_parts`` (Tables 1 to 3) and ``crn_whole`` (Tables 4 to 6).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jobs.recipes.crn_paper import FAMILY
from jobs.recipes.registry import recipe
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import BackboneName, CRNConfig, Modality
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig


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
VALIDATION = {"ucf": "", "hmdb": "", "mit": "val"}
"""Split for validation. The official lists of UCF-101 and HMDB-51 have training and test videos alone."""


def paper_crn(data: str, backbone: str, modalities: tuple[Modality, ...], **model: Any) -> TrainConfig:
    """The paper's training, on 8 ranks with a GPU each.

    Args:
        data: ucf, hmdb or mit; it determines the number of epochs and whether there is a validation.
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
        data=DataConfig(batch_size=32, val_split=VALIDATION[data]),
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


@recipe(data="UCF-101 or any", family=FAMILY)
def crn_bninception() -> TrainConfig:
    """CRN as in the paper: BN-Inception at 224, f = 512, T = 10, RIB, strategy c, RGB + stacks of 5 flows; 8 ranks."""
    return paper_crn("ucf", "bni", ("rgb", "flow"), backbone_norm="train")  # must also work from random weights


@recipe(data="UCF-101 or any", family=FAMILY)
def n_crn_bninception() -> TrainConfig:
    """N-CRN, the paper's uncoupled baseline: each branch receives its own hidden state."""
    return paper_crn("ucf", "bni", ("rgb", "flow"), partner="self", rib="none", backbone_norm="train")


@recipe(
    data="UCF-101 or any",
    family=FAMILY,
    notes=(
        "not in the paper, whose N-CRN has no RIB: CRN and N-CRN differ in coupling and in capacity, and this one tells"
        " the two apart (92.4 M parameters, as crn_bninception; n_crn_bninception has 77.2 M)",
    ),
)
def n_crn_rib_bninception() -> TrainConfig:
    """N-CRN with RIB: own hidden state through a RIB, as many parameters as crn_bninception, no coupling.

    The paper's N-CRN has no RIB, so CRN and N-CRN differ in coupling and in capacity. Behind the backbones, with 101
    classes: 92,390,602 parameters with RIB, here and in ``crn_bninception``, and 77,183,178 in ``n_crn_bninception``.
    """
    return paper_crn("ucf", "bni", ("rgb", "flow"), partner="self", backbone_norm="train")
