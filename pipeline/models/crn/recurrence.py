"""One branch of a CRN after its backbone: RIB, RAB, ConvLSTM layers and the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config.model import CRNConfig
from pipeline.models.crn.blocks import RAB, RIB, Unchanged, make_rib
from pipeline.models.crn.convlstm import ConvLSTMCell, State
from pipeline.models.dropout import ClipDropout
from pipeline.models.precision import full_precision
from pipeline.models.recompute import recomputed


class Head(nn.Module):
    """G of equation 6: global average pooling, dropout, linear classifier.

    Pooling and the matrix product run in the parameters' dtype, outside autocast: they are cheap and feed the loss.

    Shape:
        h_BCHW: (B, f, H, W); returns logits (B, N).
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = ClipDropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        with full_precision(h_BCHW):
            pooled = h_BCHW.to(self.fc.weight.dtype).mean(dim=(2, 3))
            return self.fc(self.dropout(pooled))


class Recurrence(nn.Module):
    """RAB (on X and RIB of the partner's hidden state) -> ConvLSTM layers. Equations 1-5 and 9.

    Coupling "top": the partner's top-layer H enters at the input. Coupling "each": every layer receives the H of the
    partner's same layer, through its own RIB and RAB; in the upper layers RAB takes the H of the layer below in place
    of X.

    Before the first step no branch has a hidden state. The paper writes Hhat_{t-1} = RIB(H_{t-1}) (equation 9) and not
    what Hhat_0 is. ``config.first_partner``: "zero" takes zero, as for H_0 and C_0; "rib" follows equation 9 with
    H_0 = 0, so that the biases of RIB reach RAB at the first step too. Without biases the two are equal.

    Args:
        config: of the whole network.
        in_channels: Cx of the feature map.

    Shape: see ``adapt`` and ``step``.
    """

    def __init__(self, config: CRNConfig, in_channels: int) -> None:
        super().__init__()
        self.exact_literal, self.recompute = config.exact_literal, config.recompute
        self.hidden, self.rib_of_zero = config.hidden, config.first_partner == "rib"
        self.rib: RIB | Unchanged | None = self._make_rib(config)
        partner_channels = 0 if self.rib is None else self.rib.out_channels
        adapted = config.adapted or in_channels
        self.rab = RAB(in_channels, partner_channels, adapted)
        self.upper_ribs, self.upper_rabs = nn.ModuleList(), nn.ModuleList()
        above = config.hidden
        if config.coupling == "each":
            above = config.adapted or config.hidden
            for _ in range(config.num_layers - 1):
                self.upper_ribs.append(self._make_rib(config) or nn.Identity())
                self.upper_rabs.append(RAB(config.hidden, partner_channels, above))
        inputs = [adapted] + [above] * (config.num_layers - 1)
        self.cells = nn.ModuleList(ConvLSTMCell(cin, config.hidden, config.kernel_size) for cin in inputs)

    @staticmethod
    def _make_rib(config: CRNConfig) -> RIB | Unchanged | None:
        if config.partner == "off":
            return None
        return make_rib(
            config.rib,
            config.hidden,
            form=config.rib_form,
            dilations=config.rib_dilations,
            activation=config.rib_activation,
        )

    def adapt(self, maps_FCHW: Tensor, num_steps: int) -> list[Tensor]:
        """The input half of RAB for all frames at once: T tensors (B, R, h, w) from step-major maps (T * B, Cx, h, w).

        With ``exact_literal`` it returns the maps themselves, and ``step`` applies all of RAB.
        """
        return list((maps_FCHW if self.exact_literal else self.rab.from_input(maps_FCHW)).chunk(num_steps))

    def step(
        self, adapted_BCHW: Tensor, partner_hidden: list[Tensor] | None, states: list[State] | None
    ) -> list[State]:
        """One time step.

        Args:
            adapted_BCHW: one element of what ``adapt`` returns.
            partner_hidden: H of each layer of the partner at t-1; None at the first step, or without a partner.
            states: this branch's (H, C) of every layer at t-1; None: zeros.

        Returns:
            The new (H, C) of every layer.
        """
        function = self._literal_step if self.exact_literal else self._step
        return (
            recomputed(self, function, adapted_BCHW, partner_hidden, states)
            if self.recompute
            else function(adapted_BCHW, partner_hidden, states)
        )

    def _step(self, x: Tensor, partner_hidden: list[Tensor] | None, states: list[State] | None) -> list[State]:
        if partner_hidden is None and self.rib_of_zero:
            # Of one clip: RIB(0) is the same for all, and adds to each.
            partner_hidden = [x.new_zeros((1, self.hidden, *x.shape[2:]))] * len(self.cells)
        if self.rib is not None and partner_hidden is not None:
            x = self.rab.add_partner(x, self.rib(partner_hidden[0 if len(self.upper_rabs) else -1]))
        new: list[State] = []
        for index, cell in enumerate(self.cells):
            if index and len(self.upper_rabs):
                rab, rib = self.upper_rabs[index - 1], self.upper_ribs[index - 1]
                assert isinstance(rab, RAB)
                x = rab.from_input(x)
                if partner_hidden is not None:
                    x = rab.add_partner(x, rib(partner_hidden[index]))
            new.append(cell(x, None if states is None else states[index]))
            x = new[-1][0]
        return new

    def _literal_step(self, x: Tensor, partner_hidden: list[Tensor] | None, states: list[State] | None) -> list[State]:
        """Equations 1-5 and 9 one by one: RAB on the concatenation, every gate from its own two convolutions, zero
        states at the first step.
        """
        zero = x.new_zeros((x.shape[0], self.hidden, *x.shape[2:]))
        new: list[State] = []
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, ConvLSTMCell)
            if index == 0 or len(self.upper_rabs):
                rab, rib = (self.upper_rabs[index - 1], self.upper_ribs[index - 1]) if index else (self.rab, self.rib)
                assert isinstance(rab, RAB)
                if isinstance(rib, RIB | Unchanged):
                    if partner_hidden is not None:
                        interpreted = rib(partner_hidden[index if len(self.upper_rabs) else -1])
                    elif self.rib_of_zero:
                        interpreted = rib(zero)
                    else:
                        interpreted = x.new_zeros(x.shape[0], rib.out_channels, *x.shape[2:])
                    x = torch.cat((x, interpreted), dim=1)
                x = rab.conv(x)
            new.append(cell.literal(x, (zero, zero.to(cell.cell_dtype(zero))) if states is None else states[index]))
            x = new[-1][0]
        return new
