"""One row of ``jobs.bench models``: a network, its inputs, its loss and its counts. ``subjects`` has all rows."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from pipeline.config.model import CRNConfig, ModelConfig
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
