"""CRN's two blocks between the branches: interpretation (RIB) and adaptation (RAB)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RIB(nn.Module):
    r"""Recurrent Interpretation Block: Hhat = ReLU([D1 * H; D2 * H; D3 * H]), Dd a 3x3 convolution of dilation d.

    It distils from one branch's hidden maps what the other branch can use. Source: Sun et al. (CRN), equation 9 and section 3.2
    (three parallel convolutions with different dilation, in the manner of an inception module). Their text leaves details to a
    figure: dilations 1, 2, 3, f maps each, concatenation and the ReLU are our reading.

    Args:
        channels: f, maps of H.

    Attributes:
        out_channels: 3 f.

    Shape:
        h_BCHW: (B, f, H, W); returns (B, 3 f, H, W).

    Cost: 27 f^2 multiply-adds per position, 27 f^2 + 3 f parameters.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in dilations)
        self.out_channels = channels * len(dilations)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        return F.relu(torch.cat([conv(h_BCHW) for conv in self.convs], dim=1), inplace=True)


class Unchanged(nn.Identity):
    """No interpretation: the partner's hidden maps as they are (Table 1, rows without RIB)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


def make_rib(kind: str, channels: int) -> RIB | Unchanged:
    """Build ``rib``, ``srib`` (one 3x3 convolution and ReLU, the paper's simplified block) or ``none``.

    Raises:
        ValueError: another kind.
    """
    if kind == "rib":
        return RIB(channels)
    if kind == "srib":
        return RIB(channels, dilations=(1,))
    if kind == "none":
        return Unchanged(channels)
    raise ValueError(f"rib: got {kind!r}, expected rib, srib or none")


class RAB(nn.Module):
    r"""Recurrent Adaptation Block: Xhat = Wx X + Wh Hhat + b, a 1x1 convolution on [X; Hhat].

    Source: Sun et al. (CRN), equation 2 and section 5.1 (one 1x1 convolution). Linear: no activation is named there.
    It comes in two halves, because X is known for all steps at once while Hhat is not: ``from_input`` runs once over T x B
    frames, and the recurrence adds ``Wh Hhat`` alone. The sum is that of equation 2.

    Args:
        in_channels: Cx of X.
        heard: channels of Hhat; 0 where the branch hears nobody.
        out_channels: R.

    Cost: R (Cx + heard) multiply-adds per position, R more parameters.
    """

    def __init__(self, in_channels: int, heard: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels + heard, out_channels, 1)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def from_input(self, x_FCHW: Tensor) -> Tensor:
        """Wx X + b for frames (F, Cx, H, W): (F, R, H, W). This is Xhat itself at the first step, where Hhat is zero."""
        return F.conv2d(x_FCHW, self.conv.weight[:, : self.in_channels], self.conv.bias)

    def add_heard(self, adapted_BCHW: Tensor, heard_BCHW: Tensor) -> Tensor:
        """Xhat = ``adapted`` + Wh Hhat; (B, R, H, W)."""
        return adapted_BCHW + F.conv2d(heard_BCHW, self.conv.weight[:, self.in_channels :])
