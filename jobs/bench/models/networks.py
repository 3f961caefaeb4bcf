"""What ``jobs.bench models`` measures: the papers' networks at full size, the printed numbers, and why ours differ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from jobs.recipes.crn import BACKBONES
from pipeline.config.base import require
from pipeline.config.model import CRNConfig, ModelConfig, MRSTConfig
from pipeline.models import build_model
from pipeline.models.crn.model import CRN, make_backbone
from pipeline.models.flops import forward_flop
from pipeline.models.interface import ActionModel, count_parameters

Inputs = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One row: a network, or its recurrent part (everything after the backbones)."""

    name: str
    model: ModelConfig
    crop: int
    num_classes: int
    part: str = "all"
    """all, or recurrent: the inputs are the backbones' feature maps."""
    paper_params: float | None = None
    paper_gflop: float | None = None
    why: str = ""
    """Why our counts differ from the paper's, or what they consist of."""
    timed: bool = False
    min_speedup: float | None = None
    """Required speed-up of forward + backward at full size."""
    less_memory: bool = False
    """Whether the fast path must also have the lower peak memory at full size."""

    def has_literal(self) -> bool:
        """Whether the network also has a path that follows the equations literally."""
        return isinstance(self.model, CRNConfig) or self.model.unit in ("P", "S", "T")

    def config(self, literal: bool) -> ModelConfig:
        """The model's config for one of the two paths, without dropout, so that they can be compared."""
        if isinstance(self.model, CRNConfig):
            return dataclasses.replace(self.model, exact_literal=literal, dropout=0.0)
        return dataclasses.replace(self.model, pooled_gates=not literal, dropout=0.0)

    def scaled(self, scale: float) -> Subject:
        """The same widths with fewer frames and pixels. 1: the paper's size."""
        if scale == 1:
            return self
        frames = max(8, round(self.model.num_steps * scale))
        crop = max(96, round(self.crop * scale / 32) * 32)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, num_steps=frames), crop=crop)

    def build(self, literal: bool, device: str = "meta") -> ActionModel:
        """The network in training mode, with random weights."""
        with torch.device(device):
            model = build_model(self.config(literal), num_classes=self.num_classes, crop=self.crop).train()
            return _without_backbones(model) if self.part == "recurrent" else model

    def inputs(self, model: ActionModel, batch: int, device: str = "meta") -> Inputs:
        """Normally distributed inputs; for the recurrent part, feature maps that require a gradient."""
        side = self.crop
        if self.part == "recurrent":
            assert isinstance(self.model, CRNConfig)
            side = _feature_side(self.model, self.crop)
        generator = None if device == "meta" else torch.Generator(device).manual_seed(1)
        shapes = {m: (batch, model.num_steps, model.channels[m], side, side) for m in model.modalities}
        return {
            m: torch.randn(shape, device=device, generator=generator).requires_grad_(self.part == "recurrent")
            for m, shape in shapes.items()
        }


def step_loss(model: ActionModel, inputs: Inputs, outputs: list[Tensor] | None = None) -> Tensor:
    """A loss on the steps that a training iteration would supervise; scores are appended to ``outputs``."""
    scores = model(inputs, steps=model.draw_steps(torch.Generator().manual_seed(0)))
    if outputs is not None:
        outputs.extend(score.detach() for score in scores.values())
    wide = [score.to(torch.promote_types(score.dtype, torch.float32)) for score in scores.values()]
    return -torch.stack([score.log_softmax(-1)[..., 0].mean() for score in wide]).sum()


def count(subject: Subject, literal: bool) -> tuple[int, float]:
    """Parameters, and GFLOP of a forward pass of one clip (``pipeline.models.flops``)."""
    model = subject.build(literal)
    return count_parameters(model), forward_flop(model, subject.inputs(model, 1)) / 1e9


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


def _without_backbones(model: ActionModel) -> ActionModel:
    assert isinstance(model, CRN)
    for modality in model.modalities:
        backbone = model.backbone(modality)
        model.channels[modality] = backbone.out_channels
        for name, _ in list(backbone.named_children()):
            delattr(backbone, name)
        setattr(backbone, "forward", _unchanged)  # noqa: B010 - a plain assignment is a type error
    return model


def _unchanged(maps: Tensor) -> Tensor:
    return maps


@functools.cache
def _feature_side(model: CRNConfig, crop: int) -> int:
    with torch.device("meta"):
        return make_backbone(model, 3)(torch.empty(1, 3, crop, crop)).shape[-1]


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
    _crn("bni", "N-CRN", part="recurrent", why=_PART, partner="self", rib="none"),
    _crn("bni", "early fusion", why=_CRN, partner="off", rib="none", fusion="early"),
    _crn("bni", "late fusion", why=_CRN, partner="off", rib="none", fusion="late"),
)
