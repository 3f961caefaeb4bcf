"""The outcome of one evaluation: enough to compare two models, and to refuse where they cannot be compared."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipeline.errors import UserError

STREAM_NAMES = {
    "rgb": "S-Net (rgb)",
    "flow": "T-Net (flow)",
    "diff": "T-Net (diff)",
    "diff-online": "T-Net (diff-online)",
    "fused": "fused",
}


def protocol_name(num_views: int, num_crops: int) -> str:
    """VIEWSxCROPS: ``4x1``, ``10x3``."""
    return f"{num_views}x{num_crops}"


def report_path(split: str, protocol: str, ending: str = "json") -> str:
    """Path in a run's or an ensemble's folder: ``json`` the report, ``png`` its confusion matrix, ``npz`` its
    predictions.
    """
    return f"evaluations/{split}_{protocol}.{ending}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One net of an ensemble."""

    name: str
    """Run id and branch: its stream in the report."""
    run: str  # URI
    branch: str
    recipe: str
    checkpoint: str
    predictions: str  # sha256 of the file that was averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Scores of one model, or of an ensemble, on one split under one protocol.

    ``scores`` holds, per stream (each branch's modality, or each member's name, and ``fused``), top1 and top5 in [0,
    1]. A model with one head for several modalities has ``fused`` alone. ``protocol`` is VIEWSxCROPS; it is part of
    every metric's name: test/top1_4x1.
    """

    run_id: str
    model: str  # recipe
    modalities: tuple[str, ...]
    dataset: str
    manifest_digest: str
    split: str
    protocol: str
    num_videos: int
    num_damaged: int
    classes: tuple[str, ...]
    scores: dict[str, dict[str, float]]
    per_class: tuple[float | None, ...]  # recall of the fused prediction
    confusion: tuple[tuple[int, ...], ...]  # fused; row true, column predicted
    checkpoint: str  # empty for an ensemble
    code_version: str
    seconds: float
    predictions: str = ""  # sha256 of the predictions beside the report; empty where an older version kept none
    members: tuple[Member, ...] = ()  # of an ensemble

    @property
    def branches(self) -> tuple[str, ...]:
        """The nets whose probabilities are averaged, in order."""
        return (
            tuple(m.name for m in self.members) or tuple(m for m in self.modalities if m in self.scores) or ("fused",)
        )

    @property
    def top1(self) -> float:
        """Top-1 accuracy of the fused prediction: the number that decides a promotion."""
        return self.scores["fused"]["top1"]

    def metrics(self) -> dict[str, float]:
        """Flat metrics with the protocol in their names: ``test/top1_4x1`` (fused), ``test/rgb/top1_4x1``, ..."""
        flat = {}
        for stream, values in self.scores.items():
            prefix = self.split if stream == "fused" else f"{self.split}/{stream}"
            flat.update({f"{prefix}/{name}_{self.protocol}": value for name, value in values.items()})
        return flat

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        for name in ("predictions", "members"):  # a report without them stays as it was before there were any
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvalReport:
        """Parse a report; UserError where it is not one."""
        try:
            fields: dict[str, Any] = json.loads(text)
            for name in ("classes", "modalities", "per_class"):
                fields[name] = tuple(fields[name])
            fields["confusion"] = tuple(tuple(row) for row in fields["confusion"])
            fields["members"] = tuple(Member(**member) for member in fields.get("members", ()))
            return cls(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"not an evaluation report: {error!r}") from error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether a candidate may take an alias from the current version, and why."""

    promote: bool
    why: str


def compare(candidate: EvalReport, current: EvalReport | None) -> Comparison:
    """Decide a promotion: same data, same split, same protocol, all videos read, and a strictly better fused top-1."""
    if candidate.num_damaged:
        return Comparison(
            False,
            f"{candidate.num_damaged} of {candidate.num_videos} videos could not be read: the number is incomplete",
        )
    if current is None:
        return Comparison(True, "no version has the alias yet")
    for name in ("manifest_digest", "split", "protocol"):
        ours, theirs = getattr(candidate, name), getattr(current, name)
        if ours != theirs:
            return Comparison(
                False,
                f"{name} differs: candidate {ours}, current version {theirs}; evaluate both on the same data and"
                " protocol",
            )
    text = (
        f"top-1 {candidate.top1:.4f} against the current version's {current.top1:.4f}"
        f" ({candidate.split}, {candidate.protocol})"
    )
    return Comparison(candidate.top1 > current.top1, text)
