"""Evaluate a model on a split: views of a video are averaged, and every video counts exactly once over all ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from pipeline.data.batch import Batch
from pipeline.errors import ReciprocalError
from pipeline.evaluation.predictions import Predictions
from pipeline.models import ActionModel, branch_probabilities, fuse
from pipeline.models.precision import autocast


@dataclasses.dataclass(frozen=True)
class Part:
    """One rank's share of the videos: summed probabilities per key and stream, and the number of readable views."""

    sums: dict[str, dict[str, np.ndarray]]
    views: dict[str, int]


@torch.inference_mode()
def predict_part(
    model: ActionModel, batches: Iterable[Batch], *, device: torch.device, precision: str = "auto"
) -> Part:
    """Run a model over one rank's batches.

    The probabilities of a video are the mean over its views of the softmax at the last step (as in both papers);
    ``fused`` is the mean over branches. A damaged video (weight 0) gets probability 0 for every class, so it counts as
    misclassified.

    Args:
        batches: one row per view; filler rows have weight 0 and an empty key.
    """
    was_training = model.training
    model.to(device).eval()
    part = Part({}, {})
    for batch in batches:
        with autocast(precision, device):
            outputs = model(batch.to(device).inputs)
        probabilities = branch_probabilities(outputs)
        probabilities = {**probabilities, "fused": fuse(probabilities)}
        rows = {name: p.double().cpu().numpy() for name, p in probabilities.items()}
        for row, (key, weight) in enumerate(zip(batch.keys, batch.weights.tolist(), strict=True)):
            if not key:
                continue
            part.views[key] = part.views.get(key, 0) + (weight > 0)
            streams = part.sums.setdefault(key, {})
            for name, values in rows.items():
                streams[name] = streams.get(name, np.zeros_like(values[row])) + values[row] * (weight > 0)
    model.train(was_training)
    return part


def join_parts(parts: Sequence[Part], labels: Mapping[str, int]) -> Predictions:
    """Join the videos of all ranks.

    Args:
        labels: class index of every key of the split.

    Raises:
        ReciprocalError: videos are missing, unknown or come from two ranks; names the first ones.
    """
    counts: dict[str, int] = {}
    for part in parts:
        for key in part.sums:
            counts[key] = counts.get(key, 0) + 1
    missing = sorted(labels.keys() - counts.keys())
    doubled = sorted(key for key, count in counts.items() if count > 1)
    foreign = sorted(counts.keys() - labels.keys())
    if missing or doubled or foreign:
        raise ReciprocalError(
            f"not every video was evaluated exactly once: missing {missing[:3]} ({len(missing)}), doubled {doubled[:3]}"
            f" ({len(doubled)}), unknown {foreign[:3]} ({len(foreign)})"
        )
    keys = tuple(sorted(counts))
    sums = {key: value for part in parts for key, value in part.sums.items()}
    views = {key: value for part in parts for key, value in part.views.items()}
    names = list(next(iter(sums.values())))
    # The fused prediction is the mean of the branches and is recomputed from them; if one head scores several
    # modalities, it is the only one.
    branches = {
        name: np.stack([sums[key][name] / max(views[key], 1) for key in keys]).astype(np.float32)
        for name in names
        if name != "fused" or len(names) == 1
    }
    return Predictions(keys, np.array([labels[key] for key in keys], dtype=np.int64), branches)
