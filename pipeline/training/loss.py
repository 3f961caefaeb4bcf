"""The loss of both families: cross-entropy summed over branches and supervised steps (CRN, eq. 7 and 8)."""

# Shape suffixes: B clips, S supervised steps, N classes.

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F


def supervised_loss(
    outputs: Mapping[str, torch.Tensor],
    labels_B: torch.Tensor,
    weights_B: torch.Tensor,
    total_weight: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Weighted mean over clips of ``sum over branches and steps of CE``.

    L = sum_b w_b sum_t (CE(Q_t^a, y_b) + CE(Q_t^b, y_b)) / total_weight. A clip of weight 0 has no influence at all.

    Args:
        outputs: per branch (B, S, N) logits.
        labels_B: (B,) int64.
        weights_B: (B,) float; 0 for fillers and damaged samples.
        total_weight: scalar, what to divide by: the weight of the whole global batch, so that ranks add up.

    Returns:
        Scalar float32. Zero (with a graph) where all weights are 0.
    """
    loss = torch.zeros((), device=labels_B.device)
    for logits_BSN in outputs.values():
        steps = logits_BSN.shape[1]
        ce = F.cross_entropy(
            logits_BSN.float().flatten(0, 1),
            labels_B.repeat_interleave(steps),
            reduction="none",
            label_smoothing=label_smoothing,
        )
        # where, not a product: a filler's loss may be infinite, and 0 * inf is NaN
        per_clip = ce.view(-1, steps).sum(1)
        loss = loss + torch.where(weights_B > 0, per_clip * weights_B, torch.zeros_like(per_clip)).sum()
    return loss / total_weight.clamp(min=1e-12)
