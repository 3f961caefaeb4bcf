"""Convolutional LSTM cell (Shi et al., 2015) without peepholes, as CRN uses it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # H in the compute dtype, C in float32 or wider; both (B, f, H, W)


class ConvLSTMCell(nn.Module):
    r"""One step of a convolutional LSTM.

        i = sigmoid(Wxi * X + Whi * H + bi)      f, o alike      g = tanh(Wxc * X + Whc * H + bc)
        C' = f . C + i . g                       H' = o . tanh(C')

    * is convolution, . is element-wise. One convolution on [X; H] computes all four, in the order i, f, o, g.

    Source: Sun et al. (CRN), equations 1 and 3-5; our g is their C-tilde. They write no biases; we have them, and
    initialise that of the forget gate to 1, so that a new cell keeps its state. Weights are initialised
    Xavier-uniform, with fan-in and fan-out of one gate. Both are our choices.
    C stays in float32 under autocast: it accumulates over all steps, and bfloat16's 8 bits would lose small updates.
    With 1x1 maps and a 1x1 kernel it is ``torch.nn.LSTMCell``; held by
    ``tests/unit/pipeline/models/crn/test_convlstm.py``.

    Args:
        in_channels: of X.
        hidden: f, channels of H and C.
        kernel_size: odd; the maps keep their size.

    Shape:
        x_BCHW: (B, in_channels, H, W).
        state: (H, C), each (B, hidden, H, W), or None for zeros; then the H half of the convolution is skipped.
        returns: the new (H, C).

    Cost: 4 f k^2 (in_channels + f) multiply-adds per position and step; 4 f more than that many parameters.

    Raises:
        ValueError: an even ``kernel_size``.
    """

    def __init__(self, in_channels: int, hidden: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, expected an odd number")
        self.in_channels = in_channels
        self.hidden = hidden
        self.gates = nn.Conv2d(in_channels + hidden, 4 * hidden, kernel_size, padding=kernel_size // 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights per gate; biases 0, except 1 for the forget gate."""
        area = self.gates.kernel_size[0] ** 2
        bound = math.sqrt(6 / (area * (self.in_channels + 2 * self.hidden)))
        nn.init.uniform_(self.gates.weight, -bound, bound)
        assert self.gates.bias is not None
        nn.init.zeros_(self.gates.bias)
        nn.init.ones_(self.gates.bias[self.hidden : 2 * self.hidden])

    def forward(self, x_BCHW: Tensor, state: State | None = None) -> State:
        if state is None:
            gates = self._gate_sums(x_BCHW, self.gates.weight[:, : self.in_channels])
        else:
            gates = self._gate_sums(torch.cat((x_BCHW, state[0].to(x_BCHW.dtype)), dim=1), self.gates.weight)
        compute_dtype = gates.dtype
        gates = gates.to(self.cell_dtype(gates))
        sigmoids, candidate = gates[:, : 3 * self.hidden].sigmoid(), gates[:, 3 * self.hidden :].tanh()
        input_gate, forget_gate, output_gate = sigmoids.chunk(3, dim=1)
        cell = input_gate * candidate
        if state is not None:
            cell = torch.addcmul(cell, forget_gate, state[1])
        return (output_gate * cell.tanh()).to(compute_dtype), cell

    def _gate_sums(self, x_BCHW: Tensor, weight: Tensor) -> Tensor:
        """Pre-activations of the four gates, (B, 4 f, H, W)."""
        height, width = x_BCHW.shape[2:]
        if x_BCHW.device.type != "cpu" or x_BCHW.shape[0] * height * width >= weight.shape[0]:
            padding: Any = self.gates.padding  # pairs of numbers; torch's stub says also text
            return F.conv2d(x_BCHW, weight, self.gates.bias, padding=padding)
        # With fewer positions than output channels the weights (75 MB at f = 512) are larger than the patches. The
        # CPU's convolution reorders the weights at every step; a matrix product reads them once. Measured on 7x7 maps:
        # forward and backward are 4 times as fast for one clip, twice as fast for four.
        kernel = self.gates.kernel_size[0]
        patches = F.unfold(x_BCHW, kernel, padding=kernel // 2).transpose(1, 2)  # (B, H * W, C * k * k)
        return F.linear(patches, weight.flatten(1), self.gates.bias).transpose(1, 2).unflatten(2, (height, width))

    @staticmethod
    def cell_dtype(like: Tensor) -> torch.dtype:
        """Dtype of C: float32, or that of ``like`` if it is wider."""
        return torch.promote_types(like.dtype, torch.float32)

    def literal(self, x_BCHW: Tensor, state: State) -> State:
        """``forward`` exactly as in equations 1 and 3-5: each gate is the sum of its own two convolutions. Slower; used
        for comparisons.
        """
        weight, bias = self.gates.weight, self.gates.bias
        assert bias is not None
        padding: Any = self.gates.padding
        sums: list[Tensor] = []
        for rows, shift in zip(weight.split(self.hidden), bias.split(self.hidden), strict=True):
            of_x = F.conv2d(x_BCHW, rows[:, : self.in_channels], shift, padding=padding)
            of_h = F.conv2d(state[0].to(x_BCHW.dtype), rows[:, self.in_channels :], padding=padding)
            sums.append(of_x + of_h)
        i, f, o, g = (gate.to(self.cell_dtype(gate)) for gate in sums)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return (o.sigmoid() * cell.tanh()).to(sums[0].dtype), cell
