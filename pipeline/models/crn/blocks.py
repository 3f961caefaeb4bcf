"""CRN's two blocks between the branches: recurrent interpretation (RIB) and recurrent adaptation (RAB)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RIB(nn.Module):
    r"""Recurrent Interpretation Block: Hhat = ReLU([D1 * H; D2 * H; D3 * H]), Dd a 3x3 convolution of dilation d.

    It distils from one branch's hidden state what is useful to the other branch. Source: Sun et al. (CRN), equation 9
    and section 3.2 (three parallel convolutions of different dilation, in the style of an inception module). The text
    leaves the details to a figure: dilations 1, 2, 3, f maps each, concatenation and the ReLU (``cat``) are our
    reading of it. All forms:

        cat         ReLU([D1 * H; D2 * H; D3 * H]), f maps each                                 27 f^2 weights
        sum         ReLU(D1 * H + D2 * H + D3 * H)                                              27 f^2
        split       as cat, f/3 maps each (the first ones get the remainder)                     9 f^2
        bottleneck  ReLU(E [ReLU(Dd * ReLU(Rd H)) for each d]), R and E 1x1, f/4 maps inside     3.2 f^2

    Args:
        channels: f, channels of H.
        dilations: one 3x3 convolution for each.
        form: cat, sum, split or bottleneck.
        activation: relu, or none for a linear block.

    Attributes:
        out_channels: f for each dilation with cat, f otherwise.

    Shape:
        h_BCHW: (B, f, H, W); returns (B, out_channels, H, W).

    Cost: one multiply-add per weight and position.
    """

    def __init__(
        self, channels: int, dilations: tuple[int, ...] = (1, 2, 3), form: str = "cat", activation: str = "relu"
    ) -> None:
        super().__init__()
        count = len(dilations)
        inner = channels // 4 if form == "bottleneck" else channels
        outs = (
            [channels // count + (i < channels % count) for i in range(count)] if form == "split" else [inner] * count
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, out, 3, padding=d, dilation=d) for out, d in zip(outs, dilations, strict=True)
        )
        self.out_channels = channels * count if form == "cat" else channels
        self.form, self.activation = form, activation
        self.reduce: nn.ModuleList | None = None
        self.restore: nn.Conv2d | None = None
        if form == "bottleneck":
            self.reduce = nn.ModuleList(nn.Conv2d(channels, inner, 1) for _ in dilations)
            self.restore = nn.Conv2d(inner * count, channels, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                assert conv.bias is not None
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if activation == "relu" else "linear")
                nn.init.zeros_(conv.bias)

    def _activated(self, maps_BCHW: Tensor) -> Tensor:
        return F.relu(maps_BCHW, inplace=True) if self.activation == "relu" else maps_BCHW

    def forward(self, h_BCHW: Tensor) -> Tensor:
        sources = (
            [h_BCHW] * len(self.convs)
            if self.reduce is None
            else [self._activated(reduce(h_BCHW)) for reduce in self.reduce]
        )
        maps = [conv(source) for conv, source in zip(self.convs, sources, strict=True)]
        if self.form == "sum":
            joined = maps[0]
            for other in maps[1:]:
                joined = joined + other
        else:
            joined = torch.cat(maps, dim=1)
        joined = self._activated(joined)
        return joined if self.restore is None else self._activated(self.restore(joined))


class Unchanged(nn.Identity):
    """No interpretation: the partner's hidden state as it is (Table 1, rows without RIB)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


def make_rib(
    kind: str, channels: int, *, form: str = "cat", dilations: tuple[int, ...] = (1, 2, 3), activation: str = "relu"
) -> RIB | Unchanged:
    """Build ``rib``, ``srib`` (one 3x3 convolution and a ReLU, the paper's simplified block) or ``none``.

    Args:
        kind: rib, srib or none.
        channels: f.
        form, dilations: of rib; see ``RIB``.
        activation: of rib and srib; see ``RIB``.

    Raises:
        ValueError: ``kind`` is another word.
    """
    if kind == "rib":
        return RIB(channels, dilations, form, activation)
    if kind == "srib":
        return RIB(channels, (1,), "cat", activation)
    if kind == "none":
        return Unchanged(channels)
    raise ValueError(f"rib: got {kind!r}, expected rib, srib or none")


class RAB(nn.Module):
    r"""Recurrent Adaptation Block: Xhat = Wx X + Wh Hhat + b, a 1x1 convolution on [X; Hhat].

    Source: Sun et al. (CRN), equation 2 and section 5.1 (one 1x1 convolution). It is linear: the paper names no
    activation. It is computed in two halves, because X is known for all steps at once while Hhat is not:
    ``from_input`` runs once over T x B frames, and each step of the recurrence only adds ``Wh Hhat``. The sum is that
    of equation 2; held by ``tests/unit/pipeline/models/crn/test_convlstm.py``.

    Args:
        in_channels: Cx of X.
        partner_channels: channels of Hhat; 0 for a branch without a partner.
        out_channels: R.

    Cost: R (Cx + partner_channels) multiply-adds per position, R more parameters.
    """

    def __init__(self, in_channels: int, partner_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels + partner_channels, out_channels, 1)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def from_input(self, x_FCHW: Tensor) -> Tensor:
        """Wx X + b of frames (F, Cx, H, W): (F, R, H, W). At the first step, where Hhat is zero, this is Xhat."""
        return F.conv2d(x_FCHW, self.conv.weight[:, : self.in_channels], self.conv.bias)

    def add_partner(self, adapted_BCHW: Tensor, partner_BCHW: Tensor) -> Tensor:
        """Xhat = ``adapted_BCHW`` + Wh Hhat; (B, R, H, W)."""
        return adapted_BCHW + F.conv2d(partner_BCHW, self.conv.weight[:, self.in_channels :])
