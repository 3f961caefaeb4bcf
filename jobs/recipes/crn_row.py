"""How a row of the CRN paper's tables becomes a recipe: its name, its summary, its printed numbers.

Names: crn_tTABLE_DATA_BACKBONE_VARIANT_MOTION, with DATA ucf | hmdb | mit, BACKBONE bni (BN-Inception) | v3 (Inception
v3), and MOTION flow | diff, the modality paired with RGB. Rows that average trained networks (CRN + N-CRN) are
ensembles.
"""

from __future__ import annotations

import functools
from typing import Any

from jobs.recipes.crn import BACKBONES, paper_crn
from jobs.recipes.crn_paper import FAMILY
from jobs.recipes.registry import PrintedNumber, Recipe, register
from pipeline.config.model import Modality

DATA = {"ucf": "UCF-101", "hmdb": "HMDB-51", "mit": "Moments in Time, 339 classes"}
PAIRS: dict[str, tuple[Modality, ...]] = {"flow": ("rgb", "flow"), "diff": ("rgb", "diff")}
MOTION = {"flow": "flow", "diff": "RGB difference", "diff-online": "RGB difference computed from the decoded frames"}
N_CRN = (
    "N-CRN: RAB takes the branch's own hidden state of the previous step, without RIB ('concatenate the previous hidden"
    " output of itself independently')"
)


def add_row(
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
    """Register a row.

    Args:
        row: number of the table, and which row of it.
        split: of the data set.
        model: fields of CRNConfig that differ from those of the paper's CRN.
    """
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
