"""Mean of the class probabilities of several networks: the paper's CRN + N-CRN, or any evaluated runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.report import EvalReport

# What must be equal before probabilities can be averaged, and the fix if it is not.
_SHARED = {
    "manifest_digest": "average runs of one version of one data set",
    "split": "average evaluations of one split",
    "protocol": "evaluate all runs with the same --num-views and --num-crops",
    "classes": "average runs of one list of classes, in one order",
}


@dataclasses.dataclass(frozen=True)
class Net:
    """One branch of one evaluated run; ``name`` is unique within an ensemble."""

    name: str
    branch: str
    predictions: Predictions


def check_comparable(reports: Mapping[str, EvalReport]) -> None:
    """Refuse evaluations of different videos, classes or views.

    Args:
        reports: by a name for messages.

    Raises:
        ConfigError: names the first field that differs, both runs and both values.
    """
    (first, ours), *others = reports.items()
    for name, theirs in others:
        for field, fix in _SHARED.items():
            mine, other = getattr(ours, field), getattr(theirs, field)
            if mine != other:
                raise ConfigError(field, _short(other), f"that is {name}, but {first} has {_short(mine)!r}: {fix}")


def _short(value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} classes {', '.join(value[:3])}, ..."
    return value if len(value) < 32 else value[:12]


def average(nets: Sequence[Net]) -> Predictions:
    """Join the probabilities of all nets by key. ``fused`` of the result is the ensemble: each net has equal weight.

    Returns:
        predictions whose branches are the nets, by name.

    Raises:
        ConfigError: fewer than two nets, a net given twice, or nets evaluated on different videos or labels.
    """
    names = [net.name for net in nets]
    if len(nets) < 2:
        raise ConfigError("members", names, "give two or more nets: RUN RUN, or RUN:rgb RUN:rgb")
    if len(set(names)) < len(names):
        raise ConfigError("members", names, "name each net once: a net named twice would count twice")
    first = nets[0].predictions
    keys = tuple(sorted(first.keys))
    labels = dict(zip(first.keys, first.labels.tolist(), strict=True))
    branches: dict[str, np.ndarray] = {}
    for net in nets:
        _check_videos(net, nets[0].name, labels)
        rows = {key: row for row, key in enumerate(net.predictions.keys)}
        branches[net.name] = net.predictions.branches[net.branch][[rows[key] for key in keys]]
    return Predictions(keys, np.array([labels[key] for key in keys], np.int64), branches)


def _check_videos(net: Net, first: str, labels: dict[str, int]) -> None:
    theirs = dict(zip(net.predictions.keys, net.predictions.labels.tolist(), strict=True))
    if alone := sorted(labels.keys() ^ theirs.keys()):
        fix = (
            f"{first} and {net.name} were evaluated on different videos ({len(alone)} are in only one): evaluate"
            " both --again"
        )
        raise ConfigError("keys", alone[:3], fix)
    if wrong := sorted(key for key, label in labels.items() if theirs[key] != label):
        fix = f"{first} and {net.name} have different labels for {len(wrong)} videos: evaluate both --again"
        raise ConfigError("labels", wrong[:3], fix)
