"""The interface of every model to training, evaluation and serving."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Shape suffixes in this package:
#   B clips in the batch, T frames per clip, S supervised steps, N classes
#   C channels, H W height and width in pixels or in cells of a feature map
#   F frames folded into the batch: F = B * T


class ActionModel(nn.Module, abc.ABC):
    """A clip classifier with one or more branches, one branch per modality.

    Attributes:
        modalities: the inputs it needs, in order. They are also the keys of its outputs, unless a single head scores
            several modalities: then the key is "fused".
        num_steps: T, frames per clip.
        channels: channels of one frame of each modality, after motion frames have been stacked.

    Every parameter contributes to the loss of every training forward pass (provided the last step is supervised), so
    ``DistributedDataParallel`` does not need ``find_unused_parameters``.
    """

    modalities: tuple[str, ...]
    num_steps: int
    channels: dict[str, int]
    _compiled: Callable[..., dict[str, Tensor]] | None = None

    @abc.abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Class scores (logits) of each branch at chosen steps.

        Args:
            inputs: one (B, T, C, H, W) floating-point tensor per modality, normalised as in training.
            steps: 0-based, ascending steps to score; None means the last one only. Models with one score per clip
                ignore it.

        Returns:
            modality (or "fused") -> (B, S, N), S = len(steps) or 1, in the dtype of the parameters.

        Raises:
            ValueError: a modality is missing or has the wrong shape or dtype; steps are not ascending within 0..T-1,
                or do not include T-1 in training mode.
        """

    @abc.abstractmethod
    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        """Steps to supervise in one iteration: 0-based, ascending, always including the last one.

        The number of steps is the same in every draw. Ranks that pass generators with the same seed draw the same
        steps.
        """

    @abc.abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters, each in exactly one list: "backbone" (can be pretrained, small learning rate) and "head" (the
        rest).
        """

    def first_convolutions(self) -> dict[str, list[nn.Module]]:
        """The convolutions that read the frames of each modality."""
        return {modality: [first_convolution(self)] for modality in self.modalities}

    @abc.abstractmethod
    def scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor) -> dict[str, Tensor]:
        """``forward`` without its checks.

        Args:
            inputs: already checked.
            steps: already checked; or a 1-D int64 tensor, whose values are unknown while ``torch.compile`` traces.
        """

    def compile_training(self, **options: Any) -> None:
        """Run all further training forward passes through ``torch.compile``, as one graph. Evaluation, where shapes
        vary, stays eager.

        Drawn steps enter the graph as a tensor: as Python numbers they would be constants of the graph, and every new
        draw would compile another one.

        Args:
            options: passed to ``torch.compile``.
        """
        self._compiled = torch.compile(self.scores, fullgraph=True, **options)

    def run_scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...]) -> dict[str, Tensor]:
        """``scores``, compiled if ``compile_training`` was called and the model is in training mode."""
        if self._compiled is None or not self.training:
            return self.scores(inputs, steps)
        device = next(iter(inputs.values())).device
        return self._compiled({m: inputs[m] for m in self.modalities}, torch.tensor(steps, device=device))

    def check_inputs(self, inputs: Mapping[str, Tensor], side: int | None = None) -> int:
        """Check every modality against the rules of ``forward``; return B.

        Args:
            inputs: as given to ``forward``; other keys are ignored.
            side: the required H and W in pixels; None accepts any.

        Raises:
            ValueError: names the modality, what was given and what was expected.
        """
        batch: int | None = None
        for modality in self.modalities:
            if modality not in inputs:
                raise ValueError(f"{modality}: missing; got {sorted(inputs)}, expected {sorted(self.modalities)}")
            tensor = inputs[modality]
            height, width = (side, side) if side is not None else ("H", "W")
            expected = (
                f"({'B' if batch is None else batch}, {self.num_steps}, {self.channels[modality]}, {height}, {width})"
            )
            shape = tuple(tensor.shape)
            matches = tensor.ndim == 5 and shape[0] >= 1 and shape[1:3] == (self.num_steps, self.channels[modality])
            if (
                not matches
                or (batch is not None and shape[0] != batch)
                or (side is not None and shape[3:] != (side, side))
            ):
                raise ValueError(f"{modality}: got shape {shape}, expected {expected}")
            if not tensor.is_floating_point():
                raise ValueError(
                    f"{modality}: got dtype {tensor.dtype}, expected a floating-point tensor of normalised values"
                )
            batch = shape[0]
        assert batch is not None  # a model has at least one modality
        return batch

    def check_steps(self, steps: Sequence[int] | None) -> tuple[int, ...]:
        """Return the steps to score as a tuple; see ``forward`` for the rules and the error."""
        last = self.num_steps - 1
        if steps is None:
            return (last,)
        chosen = tuple(steps)
        if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] > last:
            raise ValueError(f"steps: got {chosen}, expected ascending, distinct numbers in 0..{last}")
        if self.training and chosen[-1] != last:
            raise ValueError(
                f"steps: got {chosen}, expected {last} among them: without it some parameters would get no gradient"
            )
        return chosen


class ClipModel(ActionModel):
    """A model with one modality, one score per clip, a square input of fixed side and one learning rate: MRST-Net and
    the C3D layout.

    Attributes:
        crop: side of the input in pixels.
    """

    crop: int

    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        """See ``ActionModel.forward``; ``steps`` is ignored (S = 1)."""
        del steps
        self.check_inputs(inputs, side=self.crop)
        return self.run_scores(inputs, (self.num_steps - 1,))

    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        """Always the last step. ``generator`` is not used."""
        del generator
        return (self.num_steps - 1,)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters are in "head", because the paper uses one learning rate; "backbone" is empty."""
        return {"backbone": [], "head": list(self.parameters())}


def branch_probabilities(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Class probabilities of each branch at the last scored step.

    Args:
        outputs: modality -> logits (B, S, N), as ``ActionModel.forward`` returns them.

    Returns:
        modality -> (B, N), each row summing to 1, in float32 (float64 for float64 logits).
    """
    result: dict[str, Tensor] = {}
    for modality, logits in outputs.items():
        wide = torch.promote_types(logits.dtype, torch.float32)
        result[modality] = torch.softmax(logits[:, -1], dim=-1, dtype=wide)
    return result


def fuse(probabilities: Mapping[str, Tensor]) -> Tensor:
    """Mean of the branches' probabilities (B, N): CRN's final prediction (Sun et al., section 4).

    Raises:
        ValueError: there is no branch.
    """
    if not probabilities:
        raise ValueError("probabilities: got no branch, expected at least one")
    return torch.stack(list(probabilities.values())).mean(dim=0)


def first_convolution(module: nn.Module) -> nn.Module:
    """The first convolution of a module, in order of definition. Raises ValueError if it has none."""
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd):
            return part
    raise ValueError(f"{type(module).__name__}: has no convolution")


def count_parameters(module: nn.Module) -> int:
    """Number of scalar parameters, including frozen ones; works on the meta device."""
    return sum(parameter.numel() for parameter in module.parameters())
