"""Dropout by the clips of a global batch."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.dropout import ClipDropout, place_clips

CPU = torch.device("cpu")


def test_units_are_dropped_at_the_rate_and_the_others_scaled() -> None:
    """Zeros at rate p within five standard deviations; what is left is divided by 1 - p, and so are gradients."""
    layer = ClipDropout(0.3)
    layer.place(2, 4, 6, CPU)
    torch.manual_seed(0)
    x = torch.full((4, 50_000), 2.0, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / y.numel()) ** 0.5)
    assert y[y != 0].unique().tolist() == [pytest.approx(2 / 0.7)]
    assert x.grad is not None
    assert torch.equal(x.grad * 2, y.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_passes_through_and_a_layer_without_a_place_is_plain_dropout(dtype: torch.dtype) -> None:
    model, x = torch.nn.Sequential(ClipDropout(0.5)), torch.ones(3, 7, dtype=dtype)
    torch.manual_seed(1)
    plain = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(model(x), plain)
    place_clips(model, 0, 3, 3, CPU)
    assert model(x).dtype == dtype
    assert torch.equal(model.eval()(x), x)
    assert model.state_dict() == {}


def test_rows_of_a_clip_drop_on_their_own_and_stay_with_it() -> None:
    """Six clips of two rows, all at once and as the last two of them."""
    layer, x = ClipDropout(0.5), torch.ones(12, 64)
    layer.place(0, 6, 6, CPU)
    torch.manual_seed(3)
    whole = layer(x)
    layer.place(4, 2, 6, CPU)
    torch.manual_seed(3)
    assert torch.equal(layer(x[8:]), whole[8:])
    assert len(whole.unique(dim=0)) == 12


def test_one_compiled_graph_serves_all_places() -> None:
    """More places than torch compiles graphs for before it gives up."""
    layer, graphs = ClipDropout(0.5), []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=count)
    x = torch.ones(2, 16)
    for first in range(0, 24, 2):
        layer.place(first, 2, 24, CPU)
        torch.manual_seed(5)
        found = compiled(x)
        torch.manual_seed(5)
        assert torch.equal(found, layer(x))
    assert len(graphs) == 1
