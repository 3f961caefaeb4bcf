"""The mutually reinforced unit (Wu et al., equations 1-5): from S and T to their gates."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model import MRSTConfig
from pipeline.models.batchnorm import batchnorms
from pipeline.models.mrst.gate import reinforced_means, wide_dtype
from pipeline.models.precision import full_precision

GATED = ("P", "S", "T", "STF")
_SPATIAL_FIRST, _TEMPORAL_FIRST = ("ss", "ts", "st", "tt"), ("tt", "st", "ts", "ss")


def clip_mean(x_FCHW: Tensor, num_frames: int) -> Tensor:
    """F_gp of equation 4: mean over T, H, W of each clip, (B, C), in float32 or wider."""
    return x_FCHW.unflatten(0, (-1, num_frames)).mean(dim=(1, 3, 4), dtype=wide_dtype(x_FCHW))


def positions(x_FCHW: Tensor, num_frames: int) -> Tensor:
    """The maps as (B, P, C), P = num_frames * H * W: a view of channels-last memory, a copy of any other."""
    return x_FCHW.permute(0, 2, 3, 1).reshape(x_FCHW.shape[0] // num_frames, -1, x_FCHW.shape[1]).contiguous()


@dataclasses.dataclass(frozen=True)
class Readings:
    """Readings of the unit that the paper leaves open; the fields of ``MRSTConfig`` of the same names."""

    gate_bn: bool = False
    gate_bias: bool = False
    st_relu: bool = True

    @classmethod
    def of(cls, config: MRSTConfig) -> Readings:
        """Those of a network."""
        return cls(config.gate_bn, config.gate_bias, config.st_relu)


DEFAULT = Readings()


class MutualGates(nn.Module):
    r"""The mutually reinforced unit and the gates computed from it.

        P:  S~ = Wss S + Wts T          T~ = Wst S + Wtt T                 (1)
        S:  T~ = Wst S + Wtt T          S~ = Wss S + Wts ReLU(T~)          (2)
        T:  S~ = Wss S + Wts T          T~ = Wst ReLU(S~) + Wtt T          (3)
        STF: S~ = S                     T~ = T          (no matrices: the fusion unit alone, Table 2)
        gS = sigmoid(GAP S~)            gT = sigmoid(GAP T~)               (4, 5)

    GAP, global average pooling, is linear: GAP(W S) = W GAP(S), and only the gates leave this module. So a map is
    needed only in front of a ReLU: never in P, once in S and T. With ``pooled`` every other product is one of
    C-vectors (``from_means``): the same values and gradients (to 1e-14 in float64) with 0 (P) or 2 (S, T) of the 4
    products of maps, and the map after the ReLU is never written (``gate.reinforced_means``). Held against the literal
    form, ``from_maps``, by ``tests/unit/pipeline/models/mrst/test_model.py::test_pooled_gates_equal_map_gates``.

    Equations 1 to 3 write neither bias nor BN, which is the default. Table 1 lists the matrices as convolutions, and so
    there are two more readings:

    * ``gate_bias``: each of the four products has a bias, W x + b. GAP stays linear, so ``pooled`` stays exact; in S
      and T the map with its bias is formed in front of the ReLU (the fused operator takes no bias).
    * ``gate_bn``: each of the four products is normalised before it is added, BN(W x) ("Batch normalization is applied
      to all convolutional layers", section 4.1). The batch's variance of W x is no function of GAP(x): while this BN
      learns, gates come from maps whatever ``pooled`` says, and ``from_means`` refuses. In evaluation BN is affine and
      the pooled form exact. The batch's mean of a product is zero, so with a single clip in the batch GAP of a product
      is the shift of its BN: gates then do not depend on the clip, and the matrices get no gradient from the products
      that are not under a ReLU. Give every rank at least two clips at once, better many.

    The matrices are initialised normal with variance 1 / (2 C): S~ then has the scale of S, and gates start near 1/2.
    Biases start at 0. All are our choices.

    Args:
        channels: C of S and T.
        unit: P, S, T or STF.
        pooled: use the identity above where it is exact; False computes the equations on maps.
        readings: see above; STF has no products and takes none.

    Shape:
        s_FCHW, t_FCHW: (B * num_frames, C, H, W); returns gS, gT, each (B, C), in (0, 1), float32 or wider.

    Cost: 4 C^2 parameters (STF: none), 4 C more with biases, 8 C more with BN; C^2 multiply-adds per position for each
    product of maps: 0, 2 or 4.

    Raises:
        ValueError: another unit; biases or BN in unit STF; biases and BN together.
    """

    def __init__(self, channels: int, unit: str, pooled: bool, readings: Readings = DEFAULT) -> None:
        super().__init__()
        if unit not in GATED:
            raise ValueError(f"unit: got {unit!r}, expected one of {', '.join(GATED)}")
        if (readings.gate_bn or readings.gate_bias) and (unit == "STF" or readings.gate_bn == readings.gate_bias):
            raise ValueError(
                f"readings: got {readings} in unit {unit}, expected BN or biases, and a unit with matrices"
            )
        self.unit = unit
        self.pooled = pooled
        self.readings = readings
        if unit == "STF":
            return
        self.ss, self.ts, self.st, self.tt = (nn.Parameter(torch.empty(channels, channels)) for _ in range(4))
        for matrix in (self.ss, self.ts, self.st, self.tt):
            nn.init.normal_(matrix, std=math.sqrt(1 / (2 * channels)))
        for name in _SPATIAL_FIRST:
            if readings.gate_bias:
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(channels)))
            if readings.gate_bn:
                self.add_module(f"{name}_bn", nn.BatchNorm2d(channels))

    def forward(self, s_FCHW: Tensor, t_FCHW: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        exact = self.pooled and not self.learns_statistics()
        return (self.from_means if exact else self.from_maps)(s_FCHW, t_FCHW, num_frames)

    def learns_statistics(self) -> bool:
        """Whether BN of the products normalises by the batch's statistics."""
        return any(layer.training for layer in batchnorms(self))

    def from_maps(self, s_FCHW: Tensor, t_FCHW: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """The gates as the equations stand: all four products are maps."""
        if self.unit == "STF":
            return torch.sigmoid(clip_mean(s_FCHW, num_frames)), torch.sigmoid(clip_mean(t_FCHW, num_frames))
        a_FCHW, b_FCHW, (aa, ba, ab, bb) = self._ordered(s_FCHW, t_FCHW)
        a_new = self._product(aa, a_FCHW) + self._product(ba, b_FCHW)
        b_new = self._product(ab, a_FCHW if self.unit == "P" else F.relu(a_new)) + self._product(bb, b_FCHW)
        return self._gates(clip_mean(a_new, num_frames), clip_mean(b_new, num_frames))

    def from_means(self, s_FCHW: Tensor, t_FCHW: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """The same gates, with products of C-vectors wherever no ReLU stands behind them.

        Raises:
            ValueError: BN of the products learns; then the two are not the same.
        """
        if self.learns_statistics():
            raise ValueError(
                "from_means: the products' batch normalisation learns, and the batch's variance of W x is no function"
                " of the mean of x: use from_maps, or eval()"
            )
        if self.unit == "STF":
            return self.from_maps(s_FCHW, t_FCHW, num_frames)
        a_FCHW, b_FCHW, names = self._ordered(s_FCHW, t_FCHW)
        (aa, ba, ab, bb), shifts = zip(*(self._affine(name) for name in names), strict=True)
        shift_a, shift_b = (None if one is None else one + two for one, two in (shifts[:2], shifts[2:]))
        if self.unit == "P":
            a, b = clip_mean(a_FCHW, num_frames), clip_mean(b_FCHW, num_frames)
            reinforced = a
        elif shift_a is None:
            maps = positions(a_FCHW, num_frames), positions(b_FCHW, num_frames)
            dtype = a_FCHW.dtype
            reinforced, a, b, _ = reinforced_means(*maps, aa.to(dtype), ba.to(dtype), torch.is_grad_enabled())
        else:
            a, b = clip_mean(a_FCHW, num_frames), clip_mean(b_FCHW, num_frames)
            mixed = _mix(a_FCHW, aa) + _mix(b_FCHW, ba, shift_a)
            reinforced = clip_mean(F.relu(mixed, inplace=True), num_frames)
        # Vectors stay in float32: they are tiny, and the sigmoid's input determines the scale of whole maps.
        with full_precision(a_FCHW):
            first = F.linear(a, aa.to(a.dtype)) + _linear(b, ba, shift_a)
            return self._gates(first, F.linear(reinforced, ab.to(a.dtype)) + _linear(b, bb, shift_b))

    @torch.no_grad()
    def scale_(self, factor: float) -> None:
        """Multiply what every product adds, in place. Of a normalised product that is BN's scale and shift: its matrix
        has no scale of its own.
        """
        layers = batchnorms(self)
        for parameter in (p for layer in layers for p in layer.parameters()) if layers else self.parameters():
            parameter.mul_(factor)

    def _ordered(self, s_FCHW: Tensor, t_FCHW: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """A, B and the names of Waa, Wba, Wab, Wbb, with A~ = Waa A + Wba B and B~ = Wab A' + Wbb B, where A' is
        ReLU(A~), or A in unit P. Equation 2 is equation 3 with the two roles exchanged.
        """
        return (t_FCHW, s_FCHW, _TEMPORAL_FIRST) if self.unit == "S" else (s_FCHW, t_FCHW, _SPATIAL_FIRST)

    def _gates(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """gS, gT from GAP(A~), GAP(B~)."""
        first, second = torch.sigmoid(first), torch.sigmoid(second)
        return (second, first) if self.unit == "S" else (first, second)

    def _product(self, name: str, x_FCHW: Tensor) -> Tensor:
        """One of the four products, of a map."""
        product = _mix(x_FCHW, getattr(self, name), getattr(self, f"{name}_bias", None))
        return getattr(self, f"{name}_bn")(product) if self.readings.gate_bn else product

    def _affine(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Matrix and shift of one of the four products, BN in evaluation folded into them."""
        matrix: Tensor = getattr(self, name)
        if not self.readings.gate_bn:
            return matrix, getattr(self, f"{name}_bias", None)
        layer: nn.BatchNorm2d = getattr(self, f"{name}_bn")
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
        return matrix * scale[:, None], layer.bias - layer.running_mean * scale


def _mix(x_FCHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A C x C matrix on the channels of a map: a 1x1x1 convolution."""
    dtype = x_FCHW.dtype
    return F.conv2d(x_FCHW, weight.to(dtype)[:, :, None, None], None if bias is None else bias.to(dtype))


def _linear(x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    """W x, and what is added to it, in the dtype of ``x``."""
    return F.linear(x, weight.to(x.dtype), None if shift is None else shift.to(x.dtype))
