"""The ConvLSTM cell against torch's LSTM cell, and RIB/RAB against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.models.crn.blocks import RAB, make_rib
from pipeline.models.crn.convlstm import ConvLSTMCell


def test_on_one_cell_maps_it_is_an_lstm_cell() -> None:
    ours = ConvLSTMCell(5, 7, kernel_size=1).double()
    theirs = torch.nn.LSTMCell(5, 7).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    order = torch.cat(
        [torch.arange(0, 14), torch.arange(21, 28), torch.arange(14, 21)]
    )  # torch: i f g o; ours: i f o g
    own = ours.state_dict()
    weight, bias = own["gates.weight"][order, :, 0, 0], own["gates.bias"][order]
    with torch.no_grad():
        theirs.weight_ih.copy_(weight[:, :5])
        theirs.weight_hh.copy_(weight[:, 5:])
        theirs.bias_ih.copy_(bias)
        theirs.bias_hh.zero_()
    state, expected = None, (torch.zeros(3, 7).double(), torch.zeros(3, 7).double())
    for x in torch.randn(4, 3, 5, dtype=torch.float64):
        state = ours(x[:, :, None, None], state)
        expected = theirs(x, expected)
        torch.testing.assert_close(state[0][..., 0, 0], expected[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(state[1][..., 0, 0], expected[1], rtol=0, atol=1e-12)


def test_no_state_is_a_zero_state() -> None:
    cell = ConvLSTMCell(3, 4).double()
    x, zero = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.zeros(2, 4, 5, 6, dtype=torch.float64)
    for got, expected in zip(cell(x), cell(x, (zero, zero)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_many_positions_and_few_give_the_same() -> None:
    """A batch with more positions than gate channels is convolved, its clips one by one are a matrix product."""
    cell = ConvLSTMCell(3, 4, kernel_size=5).double()
    x, h, c = (torch.randn(9, n, 3, 5, dtype=torch.float64) for n in (3, 4, 4))
    assert x.shape[0] * 15 >= 16 > 15
    for state in (None, (h, c)):
        together = cell(x, state)
        alone = [cell(x[i : i + 1], None if state is None else (h[i : i + 1], c[i : i + 1])) for i in range(9)]
        for part in range(2):
            torch.testing.assert_close(together[part], torch.cat([s[part] for s in alone]), rtol=0, atol=1e-12)


def test_cell_state_stays_float32_under_autocast() -> None:
    cell = ConvLSTMCell(3, 4)
    x = torch.randn(2, 3, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = cell(x, cell(x))
    assert state[0].dtype == torch.bfloat16
    assert state[1].dtype == torch.float32
    torch.testing.assert_close(state[1], cell(x, cell(x))[1], rtol=0.05, atol=0.02)


def test_a_new_cell_remembers_and_an_even_kernel_is_refused() -> None:
    bias = ConvLSTMCell(3, 4).gates.bias
    assert bias is not None
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    with pytest.raises(ValueError, match="kernel_size: got 4"):
        ConvLSTMCell(3, 4, kernel_size=4)


def test_rib_reads_cells_one_two_and_three_away() -> None:
    """An impulse at the centre reaches, in each third of the maps, exactly the nine cells of its dilation."""
    rib = make_rib("rib", 2).double()
    for parameter in rib.parameters():
        torch.nn.init.constant_(parameter, 1.0 if parameter.ndim == 4 else 0.0)
    h = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    h[0, :, 4, 4] = 1
    out = rib(h)
    assert rib.out_channels == out.shape[1] == 6
    for dilation in (1, 2, 3):
        expected = torch.zeros(9, 9, dtype=torch.float64)
        expected[4 - dilation : 5 + dilation : dilation, 4 - dilation : 5 + dilation : dilation] = 2
        assert torch.equal(out[0, 2 * dilation - 2], expected)
    assert (rib(-h) == 0).all()  # ReLU


def test_srib_is_one_convolution_and_none_changes_nothing() -> None:
    h = torch.randn(2, 4, 5, 5)
    assert make_rib("none", 4)(h) is h
    srib = make_rib("srib", 4)
    (conv,) = (layer for layer in srib.modules() if isinstance(layer, torch.nn.Conv2d))
    torch.testing.assert_close(srib(h), F.relu(F.conv2d(h, conv.weight, conv.bias, padding=1)))
    with pytest.raises(ValueError, match="rib: got 'big'"):
        make_rib("big", 4)


def test_rab_halves_add_up_to_the_joint_convolution() -> None:
    rab = RAB(5, 3, 4).double()
    x, partner = torch.randn(2, 5, 6, 6, dtype=torch.float64), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        rab.add_partner(rab.from_input(x), partner), rab.conv(torch.cat([x, partner], 1)), rtol=0, atol=1e-12
    )
