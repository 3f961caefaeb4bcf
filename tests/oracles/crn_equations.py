"""CRN's equations as the paper writes them, clip by clip, step by step and gate by gate: the oracle of every
variant.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.model import CRNConfig
from pipeline.models.crn.model import CRN

Weights = dict[str, Tensor]


def conv(w: Weights, name: str, x: Tensor, dilation: int = 1) -> Tensor:
    """One convolution of the network on one clip's maps (C, H, W), size kept."""
    weight = w[f"{name}.weight"]
    return F.conv2d(x[None], weight, w[f"{name}.bias"], padding=dilation * (weight.shape[-1] // 2), dilation=dilation)[
        0
    ]


def interpreted(w: Weights, config: CRNConfig, name: str, h: Tensor) -> Tensor:
    """Equation 9 in each reading."""
    if config.rib == "none":
        return h
    act: Callable[[Tensor], Tensor] = torch.relu if config.rib_activation == "relu" else lambda x: x
    dilations = config.rib_dilations if config.rib == "rib" else (1,)
    if config.rib_form == "bottleneck":
        inner = [
            act(conv(w, f"{name}.convs.{i}", act(conv(w, f"{name}.reduce.{i}", h)), d)) for i, d in enumerate(dilations)
        ]
        return act(conv(w, f"{name}.restore", torch.cat(inner)))
    maps = [conv(w, f"{name}.convs.{i}", h, d) for i, d in enumerate(dilations)]
    return act(sum(maps[1:], maps[0])) if config.rib_form == "sum" else torch.cat([act(x) for x in maps])


def lstm(w: Weights, name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 1, 3, 4, 5."""
    f, k = h.shape[0], w[f"{name}.weight"].shape[-1]
    sums = []
    for gate in range(4):
        rows = w[f"{name}.weight"][gate * f : (gate + 1) * f]
        of_x = F.conv2d(x[None], rows[:, : x.shape[0]], padding=k // 2)[0]
        of_h = F.conv2d(h[None], rows[:, x.shape[0] :], padding=k // 2)[0]
        sums.append(of_x + of_h + w[f"{name}.bias"][gate * f : (gate + 1) * f, None, None])
    i, forget, o = (torch.sigmoid(s) for s in sums[:3])
    c = forget * c + i * torch.tanh(sums[3])
    return o * torch.tanh(c), c


def run_clip(
    w: Weights, config: CRNConfig, maps: dict[str, list[Tensor]], names: dict[str, str]
) -> dict[str, list[Tensor]]:
    """Top H of every stream at every step, for one clip. ``names``: a stream's prefix among the parameters."""
    first = next(iter(maps.values()))[0]
    zero = torch.zeros(config.hidden, *first.shape[1:], dtype=torch.float64)
    layers = range(config.num_layers)
    hidden, cells = {s: [zero for _ in layers] for s in maps}, {s: [zero for _ in layers] for s in maps}
    tops: dict[str, list[Tensor]] = {s: [] for s in maps}
    for t in range(config.num_steps):
        old = {s: list(h) for s, h in hidden.items()}
        for s, p in names.items():
            x = maps[s][t]
            for layer in layers:
                own = layer == 0 or config.coupling == "each"
                if own:
                    rib, rab = (
                        (f"{p}rib", f"{p}rab.conv")
                        if layer == 0
                        else (f"{p}upper_ribs.{layer - 1}", f"{p}upper_rabs.{layer - 1}.conv")
                    )
                    if config.partner != "off":
                        partner = s if config.partner == "self" else next(n for n in maps if n != s)
                        h = old[partner][layer if config.coupling == "each" else -1]
                        h_hat = interpreted(w, config, rib, h)
                        if t == 0 and config.first_partner == "zero":
                            h_hat = torch.zeros_like(h_hat)
                        x = torch.cat([x, h_hat])  # equation 2
                    x = conv(w, rab, x)
                hidden[s][layer], cells[s][layer] = lstm(
                    w, f"{p}cells.{layer}.gates", x, old[s][layer], cells[s][layer]
                )
                x = hidden[s][layer]
            tops[s].append(x)
    return tops


def literal(model: CRN, inputs: dict[str, Tensor], steps: tuple[int, ...]) -> dict[str, Tensor]:
    """Equations 1-6 and 9 and figure 4. The backbones see all frames at once, because their batch statistics do."""
    config, w = model.config, dict(model.named_parameters())
    batch = next(iter(inputs.values())).shape[0]
    maps = {m: model.backbone(m)(x.flatten(0, 1)).unflatten(0, (batch, config.num_steps)) for m, x in inputs.items()}
    scores: dict[str, list[Tensor]] = {}

    def score(name: str, prefix: str, tops: list[Tensor]) -> None:
        fc = [w[f"{prefix}head.fc.weight"] @ tops[t].mean((1, 2)) + w[f"{prefix}head.fc.bias"] for t in steps]
        scores.setdefault(name, []).append(torch.stack(fc))

    for clip in range(batch):
        if config.fusion == "early":
            joint = [torch.cat([maps[m][clip, t] for m in inputs]) for t in range(config.num_steps)]
            score("fused", "joint.", run_clip(w, config, {"fused": joint}, {"fused": "joint."})["fused"])
            continue
        tops = run_clip(w, config, {m: list(maps[m][clip]) for m in inputs}, {m: f"branches.{m}." for m in inputs})
        if config.fusion == "late":
            score("fused", "late.", [conv(w, "late.mix", torch.cat(both)) for both in zip(*tops.values(), strict=True)])
        else:
            for m in inputs:
                score(m, f"branches.{m}.", tops[m])
    return {name: torch.stack(rows) for name, rows in scores.items()}
