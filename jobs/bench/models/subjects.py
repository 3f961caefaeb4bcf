"""What ``jobs.bench models`` measures: the papers' networks at full size in all readings, the printed numbers, and why
ours differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from jobs.bench.models.networks import Subject
from jobs.recipes.crn import BACKBONES
from pipeline.config.base import require
from pipeline.config.model import CRNConfig, MRSTConfig


def find_subjects(wanted: Iterable[str]) -> list[Subject]:
    """Those whose name contains one of ``wanted``; all if it is empty.

    Raises:
        ConfigError: no name contains one of them.
    """
    subjects = {subject.name: subject for subject in SUBJECTS}
    words = tuple(wanted)
    for word in words:
        require(any(word in name for name in subjects), "only", word, f"use a part of one of: {', '.join(subjects)}")
    return [s for name, s in subjects.items() if not words or any(word in name for word in words)]


def _crn(
    backbone: str,
    name: str,
    crop: int = 0,
    part: str = "all",
    why: str = "",
    timed: bool = False,
    min_speedup: float | None = None,
    **model: Any,
) -> Subject:
    paper = BACKBONES[backbone]
    tail = f", {paper.title} at {crop or paper.crop}" + (", recurrent part" if part == "recurrent" else "")
    return Subject(
        name + tail,
        CRNConfig(backbone=paper.field, stack=5, **model),
        crop or paper.crop,
        101,
        part,
        why=why,
        timed=timed,
        min_speedup=min_speedup,
    )


def _mrst(name: str, why: str, num_classes: int, **values: Any) -> Subject:
    ours = {f.name for f in dataclasses.fields(Subject)}
    model = MRSTConfig(**{key: value for key, value in values.items() if key not in ours})
    return Subject(
        name, model, 224, num_classes, why=why, **{key: value for key, value in values.items() if key in ours}
    )


_NET = (
    "31.7 M is our count without the four CxC matrices (4.59 M), the classifier (0.41 M) and BN (0.06 M): 19.10 M in S,"
    " T, reduce and restore kernels, 12.59 M in the LSTM. 99.6 G is our 98.9 G of products on full maps (literal path)"
    " plus 0.5 to 0.8 G of BN, ReLU, sums and pooling, which the counter omits; so the paper's FLOPs include the"
    " matrices that its parameters do not. The paper only counts unit T"
)
_C3D = (
    "321 MB is 4 bytes per parameter of the original C3D: Sports-1M's 487 classes and 8192 inputs to fc6 (320.0 MB)."
    " With 224 pixels fc6 would have 25088 inputs and the network 590 MB; here pool5 gives 4 x 4, which keeps the size."
    " 296.7 G is printed in Table 3; plain counting gives 308 G"
)
_STD = (
    "209 MB: 1x1x1 convolutions around units of a quarter of C3D's widths, 8192 inputs to fc6, 101 classes, 4 bytes"
    " per parameter: 208.8 MB"
)
_STF = "213 MB is unexplained: gates of S and T themselves have no weights (equations 4 to 7), so this is STD's size"
_UNITS = "211 MB is printed; STD with four CxC matrices per layer (0.30 M) is 210.0 MB"
_CRN = "the paper prints no counts. Includes the backbones; see the row of the recurrent part"
_PART = (
    "the paper prints no counts. Everything after the backbones: RIB, RAB, two ConvLSTM layers and the classifier"
    " of both branches"
)

_GATE_BN = (
    "45,056 weights more; counted as a step of training, where all four products are maps: in evaluation BN is affine"
    " and the fast path is that of units T"
)
_POOL = "conv1 at stride 1 and a max-pool behind S and T: fits the printed FLOPs less well"

SUBJECTS: tuple[Subject, ...] = (
    _mrst("MRST-Net, units P", _NET, 400, unit="P", timed=True, min_speedup=1.2),
    _mrst("MRST-Net, units S", _NET, 400, unit="S", timed=True),
    _mrst(
        "MRST-Net, units T",
        _NET,
        400,
        unit="T",
        timed=True,
        min_speedup=1.1,
        less_memory=True,
        paper_params=31.7e6,
        paper_gflop=99.6,
    ),
    _mrst(
        "MRST-Net, units T, projected shortcuts",
        "1x1x1 convolutions with BN where the number of channels grows: fits the printed FLOPs less well",
        400,
        unit="T",
        shortcut="proj",
    ),
    *(
        _mrst(f"MRST-Net, units T, {name}", why, 400, unit="T", **fields)
        for name, why, fields in (
            ("BN in the gates", _GATE_BN, {"gate_bn": True}),
            ("biases in the gates", "22,528 biases more; products are as before", {"gate_bias": True}),
            ("pool in conv1", _POOL, {"stem_downsample": "pool"}),
            ("pool in conv1, projected shortcuts", _POOL, {"stem_downsample": "pool", "shortcut": "proj"}),
            ("without LSTM", "12.59 M less in the LSTM, 0.41 M more in the classifier", {"lstm": 0}),
            ("S and T without ReLU", "ReLU is not counted", {"st_relu": False}),
        )
    ),
    _mrst("C3D", _C3D, 487, layout="c3d", unit="C3D", paper_params=321e6 / 4, paper_gflop=296.7),
    _mrst("STD in C3D's layout", _STD, 101, layout="c3d", unit="STD", paper_params=209e6 / 4),
    _mrst("STD with STF in C3D's layout", _STF, 101, layout="c3d", unit="STF", paper_params=213e6 / 4),
    *(
        _mrst(f"MRST-{unit} in C3D's layout", _UNITS, 101, layout="c3d", unit=unit, paper_params=211e6 / 4)
        for unit in ("P", "S", "T")
    ),
    *(
        _crn(
            b,
            f"CRN {word}",
            part=part,
            why=_PART if part == "recurrent" else _CRN,
            rib=rib,
            timed=rib == "rib" and part == "recurrent",
            min_speedup=1.15 if rib == "rib" and part == "recurrent" else None,
        )
        for b in BACKBONES
        for rib, word in (("none", "without RIB"), ("srib", "sRIB"), ("rib", "RIB"))
        for part in ("recurrent", "all")
    ),
    _crn("v3", "CRN RIB", crop=224, part="recurrent", why=_PART),
    *(
        _crn(
            "bni",
            f"CRN RIB {form}",
            part="recurrent",
            why="another reading of Fig. 2, which the text leaves open",
            rib_form=form,
        )
        for form in ("sum", "split", "bottleneck")
    ),
    _crn("bni", "CRN RIB, RIB(0) at the first step", part="recurrent", why=_PART, first_partner="rib"),
    _crn("bni", "CRN RIB at each layer", part="recurrent", why=_PART, coupling="each"),
    _crn("bni", "CRN RIB, RAB as wide as the features", part="recurrent", why=_PART, adapted=0),
    _crn("bni", "N-CRN", part="recurrent", why=_PART, partner="self", rib="none"),
    _crn("bni", "N-CRN with RIB", part="recurrent", why=_PART, partner="self"),
    _crn("bni", "early fusion", why=_CRN, partner="off", rib="none", fusion="early"),
    _crn("bni", "late fusion", why=_CRN, partner="off", rib="none", fusion="late"),
)
