"""The mutually reinforced unit (Wu et al., equations 1-5): from S and T to their gates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.mrst.gate import reinforced_means, wide_dtype
from pipeline.models.precision import full_precision

GATED = ("P", "S", "T", "STF")


def clip_mean(x_FCHW: Tensor, num_frames: int) -> Tensor:
    """F_gp of equation 4: mean over T, H, W of each clip, (B, C), in float32 or wider."""
    return x_FCHW.unflatten(0, (-1, num_frames)).mean(dim=(1, 3, 4), dtype=wide_dtype(x_FCHW))


def positions(x_FCHW: Tensor, num_frames: int) -> Tensor:
    """The maps as (B, P, C), P = num_frames * H * W: a view of channels-last memory, a copy of any other."""
    return x_FCHW.permute(0, 2, 3, 1).reshape(x_FCHW.shape[0] // num_frames, -1, x_FCHW.shape[1]).contiguous()


class MutualGates(nn.Module):
    r"""The mutually reinforced unit and the gates computed from it.

        P:  S~ = Wss S + Wts T          T~ = Wst S + Wtt T                 (1)
        S:  T~ = Wst S + Wtt T          S~ = Wss S + Wts ReLU(T~)          (2)
        T:  S~ = Wss S + Wts T          T~ = Wst ReLU(S~) + Wtt T          (3)
        STF: S~ = S                     T~ = T          (no matrices: the fusion unit alone, Table 2)
        gS = sigmoid(GAP S~)            gT = sigmoid(GAP T~)               (4, 5)

    GAP, global average pooling, is linear: GAP(W S) = W GAP(S), and only the gates leave this module. So a map is
    needed only in front of a ReLU: never in P, once in S and T. With ``pooled`` every other product is one of
    C-vectors: the same values and gradients (to 1e-14 in float64) with 0 (P) or 2 (S, T) of the 4 products of maps, and
    the map after the ReLU is never written (``gate.reinforced_means``). Held against the literal form by
    ``tests/unit/pipeline/models/mrst/test_model.py::test_pooled_gates_equal_map_gates``.

    The four matrices have neither bias nor BN (BN in training mode would break the identity above). They are
    initialised normal with variance 1 / (2 C): S~ then has the scale of S, and gates start near 1/2. Both are our
    choices.

    Args:
        channels: C of S and T.
        unit: P, S, T or STF.
        pooled: use the identity above; False computes the equations on maps.

    Shape:
        s_FCHW, t_FCHW: (B * num_frames, C, H, W); returns gS, gT, each (B, C), in (0, 1), float32 or wider.

    Cost: 4 C^2 parameters (STF: none); C^2 multiply-adds per position for each product of maps: 0, 2 or 4.

    Raises:
        ValueError: another unit.
    """

    def __init__(self, channels: int, unit: str, pooled: bool) -> None:
        super().__init__()
        if unit not in GATED:
            raise ValueError(f"unit: got {unit!r}, expected one of {', '.join(GATED)}")
        self.unit = unit
        self.pooled = pooled
        if unit == "STF":
            return
        self.ss, self.ts, self.st, self.tt = (nn.Parameter(torch.empty(channels, channels)) for _ in range(4))
        for matrix in (self.ss, self.ts, self.st, self.tt):
            nn.init.normal_(matrix, std=math.sqrt(1 / (2 * channels)))

    def forward(self, s_FCHW: Tensor, t_FCHW: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        if self.unit == "STF":
            return torch.sigmoid(clip_mean(s_FCHW, num_frames)), torch.sigmoid(clip_mean(t_FCHW, num_frames))
        if self.unit == "S":
            # Equation 2 is equation 3 with the two roles exchanged.
            second, first = self._reinforce(t_FCHW, s_FCHW, (self.tt, self.st, self.ts, self.ss), num_frames)
            return torch.sigmoid(first), torch.sigmoid(second)
        first, second = self._reinforce(s_FCHW, t_FCHW, (self.ss, self.ts, self.st, self.tt), num_frames)
        return torch.sigmoid(first), torch.sigmoid(second)

    def _reinforce(
        self, a_FCHW: Tensor, b_FCHW: Tensor, weights: tuple[Tensor, ...], num_frames: int
    ) -> tuple[Tensor, Tensor]:
        """GAP(A~), GAP(B~) with A~ = Waa A + Wba B and B~ = Wab A' + Wbb B, where A' is ReLU(A~), or A in unit P."""
        aa, ba, ab, bb = weights
        if not self.pooled:
            a_new = _mix(a_FCHW, aa) + _mix(b_FCHW, ba)
            b_new = _mix(a_FCHW if self.unit == "P" else F.relu(a_new), ab) + _mix(b_FCHW, bb)
            return clip_mean(a_new, num_frames), clip_mean(b_new, num_frames)
        if self.unit == "P":
            a, b = clip_mean(a_FCHW, num_frames), clip_mean(b_FCHW, num_frames)
            reinforced = a
        else:
            maps = positions(a_FCHW, num_frames), positions(b_FCHW, num_frames)
            dtype = a_FCHW.dtype
            reinforced, a, b, _ = reinforced_means(*maps, aa.to(dtype), ba.to(dtype), torch.is_grad_enabled())
        # Vectors stay in float32: they are tiny, and the sigmoid's input determines the scale of whole maps.
        with full_precision(a_FCHW):
            return F.linear(a, aa.to(a.dtype)) + F.linear(b, ba.to(a.dtype)), F.linear(
                reinforced, ab.to(a.dtype)
            ) + F.linear(b, bb.to(a.dtype))


def _mix(x_FCHW: Tensor, weight: Tensor) -> Tensor:
    """A C x C matrix on the channels of a map: a 1x1x1 convolution."""
    return F.conv2d(x_FCHW, weight[:, :, None, None])
