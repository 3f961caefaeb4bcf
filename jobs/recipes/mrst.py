"""Every row of the MRST paper's Tables 2 to 4 (Wu et al.) that its authors trained, as a named recipe with the printed
numbers.

Names: mrst_tTABLE_DATA[_UNIT], with DATA ucf | hmdb | k400 and UNIT c3d | std | stf | p | s | t. The pre-training of
Table 2 on Kinetics-400 has its own recipes (k400), although the paper prints no number for it.
"""

from __future__ import annotations

import functools
from typing import Any

from jobs.recipes.registry import Family, Option, PrintedNumber, Recipe, recipe, register
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig

FAMILY = Family(
    source="Wu et al., Mutually Reinforced Spatio-Temporal Convolutional Tube, section 4.1",
    stated=(
        "clips of 16 frames, short side 256; for training a random 224 x 224 crop and a random first frame",
        "from scratch: Adam, initial learning rate 1e-4, dropout 0.5, weight decay 5e-5",
        (
            "from ImageNet-1k or Kinetics-400: SGD, momentum 0.9, initial learning rate 1e-5, dropout 0.9, weight decay"
            " 5e-4"
        ),
        "test: mean probabilities of 20 uniformly spaced clips",
    ),
    choices=(
        "frame stride 1: 'a desired number of frames' from a random start; the paper names no stride",
        "batch of 64 clips: 8 ranks of 8; on fewer GPUs set data.micro-batch",
        (
            "100 epochs from scratch, 60 from pre-trained weights: learning rates of 1e-4 and 1e-5 are small, and rows"
            " are compared at equal length"
        ),
        "decay: half a cosine down to 1 %; the paper only says 'initial learning rate'",
        "flips: usual with random crops; not mentioned in the paper",
        "gradient norm clipped at 20 for safety: normal steps are far below",
        "centre crop of each test clip",
        "shortcuts without weights where the number of channels grows: they fit the printed FLOPs best",
    ),
)
DATA = {"ucf": ("UCF-101", "splits 1-3"), "hmdb": ("HMDB-51", "splits 1-3"), "k400": ("Kinetics-400", "train/val")}
PER_SPLIT = "one run for each of the three splits; the printed number is their mean"


def paper_mrst(pretrained: bool, **model: Any) -> TrainConfig:
    """The paper's training, on 8 ranks with a GPU each: from scratch, or from pre-trained weights.

    Args:
        pretrained: which of section 4.1's two settings.
        model: fields of MRSTConfig that differ from those of MRST-Net with T units.
    """
    if pretrained:
        optim = OptimConfig(
            name="sgd", lr=1e-5, backbone_lr=1e-5, momentum=0.9, weight_decay=5e-4, epochs=60, schedule="cosine"
        )
    else:
        optim = OptimConfig(name="adam", lr=1e-4, backbone_lr=1e-4, weight_decay=5e-5, epochs=100, schedule="cosine")
    return TrainConfig(
        model=MRSTConfig(**{"dropout": 0.9 if pretrained else 0.5, **model}),
        clip=ClipConfig(num_frames=16, crop=224, resize=256, train_crop="fixed"),
        data=DataConfig(batch_size=64),
        optim=optim,
        run=RunConfig(num_workers=8, cpus_per_worker=8, use_gpu="yes"),
    )


# Unit -> top-1 on UCF-101, on HMDB-51, size in MB.
TABLE2: dict[str, tuple[float, float, float]] = {
    "c3d": (85.3, 58.5, 321),
    "std": (86.9, 60.8, 209),
    "stf": (88.8, 63.8, 213),
    "p": (91.2, 67.2, 211),
    "s": (90.8, 66.4, 211),
    "t": (92.2, 68.9, 211),
}
UNITS = {"c3d": "C3D", "std": "STD", "stf": "STD with STF", "p": "MRST-P", "s": "MRST-S", "t": "MRST-T"}


def _add(
    name: str,
    row: str,
    what: str,
    data: str,
    printed: tuple[PrintedNumber, ...],
    start: str,
    option: Option,
    pretrained: bool,
    notes: tuple[str, ...],
    **model: Any,
) -> None:
    where = ", ".join(DATA[data])
    summary = f"{what}, 16 x 224 x 224 RGB, on {where} (Table {row})."
    register(
        Recipe(
            name,
            summary,
            functools.partial(paper_mrst, pretrained, **model),
            data=where,
            row=f"MRST Table {row}",
            printed=printed,
            family=FAMILY,
            start=start,
            option=option,
            notes=notes,
        )
    )


def _table_2() -> None:
    for unit, (ucf, hmdb, size) in TABLE2.items():
        what, weights = f"{UNITS[unit]} in the layout of C3D", PrintedNumber("size", size, "MB")
        model = {"layout": "c3d", "unit": unit.upper()}
        for data, top1 in (("ucf", ucf), ("hmdb", hmdb)):
            start = f"a finished run of mrst_t2_k400_{unit}, with a new classifier: --start-from RUN"
            _add(
                f"mrst_t2_{data}_{unit}",
                f"2, {UNITS[unit]}",
                what,
                data,
                (PrintedNumber("top-1", top1), weights),
                start,
                "start_from",
                True,
                (PER_SPLIT,),
                **model,
            )
        notes = (
            "the paper's pre-training, for which it prints no number; from scratch, since it names no initial weights",
        )
        _add(
            f"mrst_t2_k400_{unit}",
            f"2, pre-training of {UNITS[unit]}",
            what,
            "k400",
            (weights,),
            "random weights",
            "",
            False,
            notes,
            **model,
        )


def _tables_3_and_4() -> None:
    sizes = (PrintedNumber("parameters", 31.7, "M"), PrintedNumber("FLOPs", 99.6, "G"))
    what, twin = (
        "MRST-Net with T units",
        "ImageNet-1k weights of its 2D twin (unit 2D), new temporal convolutions and gates: --model.pretrained FILE",
    )
    notes = (
        (
            "the widths are not those of ResNet-101, so its public weights do not fit: the twin must be trained on"
            " ImageNet first, with FILE the RUN/CHECKPOINT/model.safetensors of that run"
        ),
    )
    _add(
        "mrst_t3_k400",
        "3, ours",
        what,
        "k400",
        (PrintedNumber("top-1", 74.1), *sizes),
        twin,
        "model.pretrained",
        True,
        notes,
    )
    for data, top1 in (("ucf", 96.5), ("hmdb", 75.4)):
        _add(
            f"mrst_t4_{data}",
            "4, ours",
            what,
            data,
            (PrintedNumber("top-1", top1),),
            "a finished run of mrst_t3_k400, with a new classifier: --start-from RUN",
            "start_from",
            True,
            (PER_SPLIT,),
        )


_table_2()
_tables_3_and_4()


@recipe(data="Kinetics-400 or any")
def mrst_net() -> TrainConfig:
    """MRST-Net of Table 1 with T units, 16 x 224 x 224 RGB, Adam from scratch (section 4.1); 8 ranks."""
    return paper_mrst(pretrained=False)
